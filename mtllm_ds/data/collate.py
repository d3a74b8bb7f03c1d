"""From samples to the typed batch that an objective reads."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch

from mtllm_ds.data.blocks import Block, Ragged

_CORE_COLUMNS = ("encoder_ids", "llm_ids")
IGNORED_LABEL = -100
"""Fills ragged integer extras, as the field's losses expect."""


@dataclass(frozen=True)
class Sample:
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
    """Further columns (labels, teacher targets): dense (B, ...), ragged ones padded to (B, S)"""

    def __len__(self) -> int:
        return len(self.valid)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The batch on another device."""
        moved: dict[str, Any] = {
            f.name: getattr(self, f.name).to(device, non_blocking=non_blocking)
            for f in fields(self)
            if f.name != "extras"
        }
        extras = {name: tensor.to(device, non_blocking=non_blocking) for name, tensor in self.extras.items()}
        return replace(self, **moved, extras=extras)


def collate(samples: Sequence[Sample], pad_ids: dict[str, int]) -> Batch:
    """Batch of samples; without any, one row that is not valid (a single padding token a side, so that means stay finite).

    Args:
        pad_ids: by side (`encoder`, `llm`)
    """
    if not samples:
        return _weightless(pad_ids)
    encoder_ids, encoder_mask = _pad([s.block["encoder_ids"][s.row] for s in samples], pad_ids["encoder"])
    llm_ids, llm_mask = _pad([s.block["llm_ids"][s.row] for s in samples], pad_ids["llm"])
    extras = {name: _extra(name, samples) for name in samples[0].block if name not in _CORE_COLUMNS}
    return Batch(
        encoder_ids,
        encoder_mask,
        llm_ids,
        llm_mask,
        languages=torch.tensor([sample.language for sample in samples]),
        valid=torch.ones(len(samples), dtype=torch.bool),
        sample_ids=torch.tensor([sample.sample_id for sample in samples]),
        extras=extras,
    )


def _weightless(pad_ids: dict[str, int]) -> Batch:
    one, zero = torch.ones(1, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    return Batch(
        one * pad_ids["encoder"],
        one.clone(),
        one * pad_ids["llm"],
        one.clone(),
        languages=zero,
        valid=torch.zeros(1, dtype=torch.bool),
        sample_ids=zero - 1,
    )


def _pad(rows: Sequence[np.ndarray], fill: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, S) int64 values and mask of rows of any integer type."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    values = np.full(mask.shape, fill, np.int64)
    values[mask] = np.concatenate(rows)
    return torch.from_numpy(values), torch.from_numpy(mask.astype(np.int64))


def _extra(name: str, samples: Sequence[Sample]) -> torch.Tensor:
    rows = [sample.block[name][sample.row] for sample in samples]
    if isinstance(samples[0].block[name], Ragged):
        return _pad(rows, IGNORED_LABEL)[0]
    return torch.from_numpy(np.stack(rows).astype(_torch_dtype(rows[0].dtype)))


def _torch_dtype(dtype: np.dtype) -> np.dtype:
    """Labels and other integers as int64, what torch indexes with; floats as they are."""
    return np.dtype(np.int64) if dtype.kind in "ui" else dtype
