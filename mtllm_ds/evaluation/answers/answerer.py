"""Answers of a model to items, the same whatever the batch size, the number of ranks and the memory at hand.

Logits depend on a batch's padding and size in their last digits. That changes an answer only where two classes (nearly) tie, so
items with such a tie are asked once more, each alone: then nothing but the item itself decides, and exact ties go to the first
class.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.items.items import Item

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""By the model's dtype: two logits nearer than this share of the largest one (or of 1) tie. Far above the noise of batching."""

_CPU_OUT_OF_MEMORY = ("DefaultCPUAllocator", "not enough memory")


class Classifier(Protocol):
    """What is asked of a model, such as `mtllm_ds.MTLLM`."""

    def predict(self, items: Sequence[Item], lang: str, batch_size: int) -> list[torch.Tensor]:
        """Logits of each item: (classes,), or (options,) for multiple choice."""
        ...


@dataclass(frozen=True)
class Answer:
    """`choice` counts classes or options from 0; `score` is its softmax probability."""

    choice: int
    score: float


class Answerer:
    """Asks a classifier in batches; where memory runs out, batches are halved from there on, with a note."""

    def __init__(
        self, model: Classifier, batch_size: int, tolerance: float = TOLERANCE[torch.float32], name: str = ""
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: too small; give at least 1")
        self._model = model
        self._tolerance = tolerance
        self._name = name
        self.batch_size = batch_size
        """As asked for: what ranks deal by."""
        self.items_at_once = batch_size
        """What has fitted into this rank's memory so far."""

    def __call__(self, items: Sequence[Item], tag: str) -> list[Answer]:
        """Answers to items of one language, which the model reads with `tag`.

        Raises `UserError` if one item alone does not fit into memory, or logits are not finite.
        """
        answers = []
        for item, logits in zip(items, self._logits(items, tag), strict=True):
            assert not item.options or len(logits) == len(item.options), "a score an option"
            if not np.isfinite(logits).all():
                raise UserError(f"item {item.id}, read as {tag}: its logits are not finite; try --precision fp32")
            if self._ties(logits) and len(items) > 1:
                (logits,) = self._logits([item], tag)
            answers.append(_answer(logits))
        return answers

    def _logits(self, items: Sequence[Item], tag: str) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        while len(found) < len(items):
            batch = items[len(found) : len(found) + self.items_at_once]
            logits = self._unless_memory_runs_out(batch, tag)
            if logits is None:
                self._halve(batch, tag)
            else:
                found += [row.detach().double().cpu().numpy() for row in logits]
        return found

    def _unless_memory_runs_out(self, batch: Sequence[Item], tag: str) -> list[torch.Tensor] | None:
        try:
            return self._model.predict(batch, tag, len(batch))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None  # outside `except`: the error's frames hold tensors

    def _halve(self, batch: Sequence[Item], tag: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) == 1:
            raise UserError(
                f"item {batch[0].id}, read as {tag}: out of memory{self._name} with it alone; use a smaller max_length, "
                "--precision bf16, or a device with more memory"
            )
        self.items_at_once = len(batch) // 2
        note = f"note: out of memory{self._name} with {len(batch)} items at once, going on with {self.items_at_once}"
        print(note, file=sys.stderr, flush=True)

    def _ties(self, logits: np.ndarray) -> bool:
        second, first = np.sort(logits)[-2:]
        return bool(first - second < self._tolerance * max(1.0, np.abs(logits).max()))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the machine, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _CPU_OUT_OF_MEMORY)


def deal(items: Sequence[Item], batch_size: int, rank: int, world_size: int) -> list[list[int]]:
    """Batches (row numbers) of one rank: items sorted by length, the longest first, batches dealt to and fro.

    Every row is dealt to exactly one rank, and the ranks' shares are alike in length. No rank is idle if there are as many
    items as ranks.
    """
    size = min(batch_size, max(1, -(-len(items) // world_size)))
    order = sorted(range(len(items)), key=lambda row: -_length(items[row]))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    mine = []
    for start in range(0, len(batches), world_size):
        hand = batches[start : start + world_size]
        seat = rank if (start // world_size) % 2 == 0 else world_size - 1 - rank
        if seat < len(hand):
            mine.append(hand[seat])
    return mine


def _length(item: Item) -> int:
    return sum(map(len, (*item.segments, *item.options)))


def _answer(logits: np.ndarray) -> Answer:
    choice = int(logits.argmax())  # of several largest the first
    return Answer(choice, float(1 / np.exp(logits - logits[choice]).sum()))
