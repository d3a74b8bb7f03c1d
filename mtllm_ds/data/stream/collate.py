"""From samples to the typed batch that an objective reads."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from mtllm_ds.data.shards.blocks import Block, Ragged
from mtllm_ds.data.stream.packing import PackedBatch, pack_batch, pad_rows
from mtllm_ds.data.writing.token_pairs import COLUMN as TOKEN_PAIRS

_CORE_COLUMNS = ("encoder_ids", "llm_ids")
IGNORED_LABEL = -100
"""Fills ragged integer extras of one number a position, as the field's losses expect; other ragged extras are filled with 0."""
NO_PAIR = -1
"""Fills `token_pairs`, where 0 is a position."""


class Sample(NamedTuple):
    """One row: the block it lies in, decoded, and its place there."""

    block: Block
    row: int
    language: int
    sample_id: int


@dataclass
class Batch:
    """A forward's worth of samples; padded on the right. B rows, of which the valid ones come first."""

    encoder_ids: torch.Tensor
    """(B, S_e) int64"""
    encoder_mask: torch.Tensor
    """(B, S_e) int64, 1 at tokens"""
    llm_ids: torch.Tensor
    """(B, S_l) int64"""
    llm_mask: torch.Tensor
    """(B, S_l) int64"""
    languages: torch.Tensor
    """(B,) int64, position in the manifest's languages"""
    valid: torch.Tensor
    """(B,) bool; False is a row of a cell without weight, which only keeps ranks in step"""
    sample_ids: torch.Tensor
    """(B,) int64, row number in the data set; -1 where not valid"""
    extras: dict[str, torch.Tensor] = field(default_factory=dict)
    """Further columns (labels, teacher targets): dense (B, ...), ragged ones padded to (B, S, ...)"""
    packed: PackedBatch | None = None
    """The same samples packed, under token budgets; None with cells of a fixed count"""

    def __len__(self) -> int:
        return len(self.valid)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The batch on another device."""
        moved: dict[str, Any] = {
            f.name: getattr(self, f.name).to(device, non_blocking=non_blocking)
            for f in fields(self)
            if isinstance(getattr(self, f.name), torch.Tensor | PackedBatch)
        }
        extras = {name: tensor.to(device, non_blocking=non_blocking) for name, tensor in self.extras.items()}
        return replace(self, **moved, extras=extras)


@dataclass(frozen=True, kw_only=True)
class Collator:
    """Makes batches of cells; without any sample, one row that is not valid (a single padding token a side, so that means stay
    finite)."""

    pad_ids: dict[str, int]
    """By side (`encoder`, `llm`)"""
    packing_buckets: int = 0
    """Encoder inputs a forward of packed batches; 0 packs nothing"""

    def __call__(self, cells: Sequence[Sequence[Sample]]) -> Batch:
        samples = [sample for cell in cells for sample in cell]
        cell_of_sample = [number for number, cell in enumerate(cells) for _ in cell]
        encoder_rows = [s.block["encoder_ids"][s.row] for s in samples] or [np.array([self.pad_ids["encoder"]])]
        llm_rows = [s.block["llm_ids"][s.row] for s in samples] or [np.array([self.pad_ids["llm"]])]
        encoder_ids, encoder_mask = pad_rows(encoder_rows, self.pad_ids["encoder"])
        llm_ids, llm_mask = pad_rows(llm_rows, self.pad_ids["llm"])
        return Batch(
            encoder_ids,
            encoder_mask,
            llm_ids,
            llm_mask,
            languages=torch.tensor([sample.language for sample in samples] or [0]),
            valid=torch.full((len(encoder_rows),), bool(samples)),
            sample_ids=torch.tensor([sample.sample_id for sample in samples] or [-1]),
            extras={name: _extra(name, samples) for name in _extra_columns(samples)},
            packed=pack_batch(encoder_rows, llm_rows, cell_of_sample or [0], self.pad_ids, self.packing_buckets)
            if self.packing_buckets
            else None,
        )


def _extra_columns(samples: Sequence[Sample]) -> list[str]:
    return [name for name in samples[0].block if name not in _CORE_COLUMNS] if samples else []


def _extra(name: str, samples: Sequence[Sample]) -> torch.Tensor:
    rows = [np.asarray(sample.block[name][sample.row]) for sample in samples]
    if isinstance(samples[0].block[name], Ragged):
        is_labels = rows[0].dtype.kind in "ui" and rows[0].ndim == 1
        return pad_rows(rows, IGNORED_LABEL if is_labels else NO_PAIR if name == TOKEN_PAIRS else 0)[0]
    stacked = np.stack(rows)
    return torch.from_numpy(stacked.astype(np.int64) if stacked.dtype.kind in "ui" else stacked)
