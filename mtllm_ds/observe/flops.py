"""The matrix products of training steps, counted from shapes.

Every pass through a model is noted where it is made (`note_padded`, `note_packed`); the lengths of its samples stay on the device
until a row of the log asks for them. Which products a token passes, and which of them have a backward, the first micro-batch shows
(`flops_seen.py`): of what is frozen, of adapters that are off and of the first layer that trains autograd itself tells.

- *Model* FLOPs are those that the method needs: real tokens, attention by the lengths of samples, a backward of twice the forward
  where inputs and weights both need a gradient, and of less where they do not.
- *Hardware* FLOPs come with what the layout costs: padding, the square of a packed row under a mask, attention scores and whole
  layers that the backward works out anew.

Not counted: elementwise work, recurrences, and what an objective runs before a step's first forward (rollouts, previews, a teacher
that reads a whole step ahead).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import nn

from mtllm_ds.observe.flop_formulas import head_flops
from mtllm_ds.observe.flops_seen import Products, Seen


@dataclass(frozen=True)
class Flops:
    """Of one rank."""

    model: float
    hardware: float


@dataclass
class _Read:
    """All passes of one kind through one module since the last row."""

    places: int = 0
    """Padding included"""
    pairs: int = 0
    """Squares of the rows as they were laid, in places; 0 where samples lie end to end, each for itself"""
    rows: int = 0
    """Tokens of modules that take each by itself"""
    counts: torch.Tensor | None = None
    """(2,) float64 on the device: tokens, and the sum of squares of the samples' lengths"""

    def add(self, lengths: torch.Tensor) -> None:
        """Samples, by their lengths."""
        own = lengths.double()
        counts = torch.stack((own.sum(), own.square().sum()))
        self.counts = counts if self.counts is None else self.counts + counts


@dataclass
class StepFlops:
    """Counts in the micro-batches that run inside `micro_batch`."""

    _known: dict[tuple[int, bool], Products] = field(default_factory=dict)
    """By module, and whether gradients were on"""
    _read: dict[tuple[int, bool], _Read] = field(default_factory=dict)
    _seen: Seen | None = None
    _heads: float = 0.0

    @contextmanager
    def micro_batch(self) -> Iterator[None]:
        """A training forward and backward."""
        before = _counting.set(self)
        try:
            yield
        finally:
            _counting.reset(before)
            if self._seen is not None:
                self._known |= self._seen.products()
                self._seen = None

    def read(self, module: nn.Module, rows: int, width: int) -> _Read:
        """A pass begins: where it is counted."""
        key = id(module), torch.is_grad_enabled()
        if key not in self._known:
            self._seen = self._seen or Seen()
            self._seen.watch(module, rows * width)
        read = self._read.setdefault(key, _Read())
        read.places += rows * width
        return read

    def head(self, flops: int) -> None:
        """Of a loss on an output head."""
        self._heads += flops

    def take(self) -> Flops:
        """Since the last time; waits for the device."""
        model = hardware = self._heads
        for key, read in self._read.items():
            products = self._known.get(key)
            if products is None:  # a forward that failed
                continue
            tokens, squares = (read.rows, 0) if read.counts is None else read.counts.tolist()
            pairs = read.pairs or squares
            model += tokens * (products.forward + products.backward)
            model += squares * (products.attention + products.attention_backward)
            hardware += read.places * (products.forward + products.backward + products.again)
            hardware += pairs * (products.attention + products.attention_backward_made + products.attention_again)
        self._read, self._heads = {}, 0.0
        return Flops(model, hardware)

    @property
    def unseen(self) -> tuple[str, ...]:
        """Kinds of models whose attention cannot be seen, and is left out."""
        return tuple(sorted({products.unseen for products in self._known.values() if products.unseen}))


_counting: ContextVar[StepFlops | None] = ContextVar("counting", default=None)


def note_padded(module: nn.Module, mask: torch.Tensor) -> None:
    """A module is about to read samples in padded rows: (B, S) mask, 1 at tokens."""
    if (count := _counting.get()) is not None:
        rows, width = mask.shape
        read = count.read(module, rows, width)
        read.pairs += rows * width**2
        read.add(mask.sum(1))


def note_packed(
    module: nn.Module, shape: tuple[int, int], cu_seqlens: torch.Tensor, *, end_to_end: bool = False
) -> None:
    """A module is about to read packed rows.

    Args:
        shape: (R, P) places that it is given
        cu_seqlens: (B + 1,) ends of the samples
        end_to_end: one row without padding, with attention of each sample for itself (variable lengths)
    """
    if (count := _counting.get()) is not None:
        rows, width = shape
        read = count.read(module, rows, width)
        read.pairs += 0 if end_to_end else rows * width**2
        read.add(cu_seqlens.diff())


def note_rows(module: nn.Module, num_rows: int) -> None:
    """A module without attention is about to read so many states."""
    if (count := _counting.get()) is not None:
        count.read(module, num_rows, 1).rows += num_rows


def note_head(num_rows: int, weight: torch.Tensor, num_products: int) -> None:
    """A loss is formed of so many states and an output head's matrix (V, D): `head_flops`."""
    if (count := _counting.get()) is not None:
        vocabulary, width = weight.shape
        count.head(head_flops(num_rows, vocabulary, width, num_products))
