"""From samples to the typed batch that an objective reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from mtllm_ds.data.columns import ALWAYS_READ, ENCODER_IDS, LLM_IDS, column_named
from mtllm_ds.data.shards.blocks import Block, Column, Ragged
from mtllm_ds.data.stream.packing import PackedBatch, pack_batch, pad_rows


class Sample(NamedTuple):
    """One row: the block it lies in, decoded, and its place there."""

    block: Block
    row: int
    language: int
    sample_id: int


@dataclass(frozen=True)
class HostFacts:
    """What the host knows of a batch wherever its tensors lie: forwards depend on it and never wait for the device."""

    num_valid: int
    sample_ids: tuple[int, ...]
    """(B,)"""
    num_tokens: dict[str, tuple[int, ...]]
    """By side: (B,) tokens of each row, 0 where not valid"""
    cells: tuple[int, ...] = (0,)
    """(B,), as `Batch.cells`"""
    columns: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Of the columns that are `on_host`: (B,) values per row, or the rows' lengths; empty without any sample"""
    languages: tuple[int, ...] = (0,)
    """(B,)"""
    noted: dict[str, Any] = field(default_factory=dict)
    """What an objective has worked out of the batch while that was on the host (`Objective.count`)"""

    @classmethod
    def of(cls, batch: Batch) -> HostFacts:
        """The facts of a batch on the CPU."""
        masks = {"encoder": batch.encoder_mask, "llm": batch.llm_mask}
        return cls(
            num_valid=int(batch.valid.sum()),
            sample_ids=tuple(batch.sample_ids.tolist()),
            cells=tuple(batch.cells.tolist()),
            num_tokens={side: tuple((mask.sum(1) * batch.valid).tolist()) for side, mask in masks.items()},
            languages=tuple(batch.languages.tolist()),
        )


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
    cells: torch.Tensor
    """(B,) int64, non-decreasing: which of the forward's cells each row belongs to"""
    extras: dict[str, torch.Tensor] = field(default_factory=dict)
    """Further columns by name (`data/columns.py`): (B, ...) per row, padded to (B, S, ...) otherwise"""
    language_codes: tuple[str, ...] = ()
    """FLORES-200 codes of the data set that `languages` counts; empty where nobody has said them"""
    packed: PackedBatch | None = None
    """The same samples packed, under token budgets; None with cells of a fixed count"""
    host: HostFacts = None  # type: ignore[assignment]
    """What the host must know of it without asking the device; filled in where the batch is made. With `dataclasses.replace` give
    `host=None`, or it stays as it was"""

    def __post_init__(self) -> None:
        if self.host is None:
            self.host = HostFacts.of(self)

    def __len__(self) -> int:
        return len(self.valid)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
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
    """By side (`encoder`, `llm`), of the sides that the data set has; the other side's rows have no token"""
    packing_buckets: int = 0
    """Encoder inputs a forward of packed batches; 0 packs nothing"""
    language_codes: tuple[str, ...] = ()
    """Of the data set's languages"""

    def __call__(self, cells: Sequence[Sequence[Sample]]) -> Batch:
        samples = [sample for cell in cells for sample in cell]
        cell_of_sample = [number for number, cell in enumerate(cells) for _ in cell]
        encoder_rows, llm_rows = self._rows("encoder", ENCODER_IDS, samples), self._rows("llm", LLM_IDS, samples)
        encoder_ids, encoder_mask = pad_rows(encoder_rows, self.pad_ids.get("encoder", 0))
        llm_ids, llm_mask = pad_rows(llm_rows, self.pad_ids.get("llm", 0))
        batch = Batch(
            encoder_ids,
            encoder_mask,
            llm_ids,
            llm_mask,
            languages=torch.tensor([sample.language for sample in samples] or [0]),
            valid=torch.full((len(encoder_rows),), bool(samples)),
            sample_ids=torch.tensor([sample.sample_id for sample in samples] or [-1]),
            cells=torch.tensor(cell_of_sample or [0]),
            extras={name: _extra(name, samples) for name in _extra_columns(samples)},
            language_codes=self.language_codes,
            packed=pack_batch(encoder_rows, llm_rows, cell_of_sample or [0], self.pad_ids, self.packing_buckets)
            if self.packing_buckets
            else None,
        )
        batch.host = replace(batch.host, columns=_on_host(samples))
        return batch

    def _rows(self, side: str, column: str, samples: Sequence[Sample]) -> list[np.ndarray]:
        padding = [self.pad_ids[side]] if side in self.pad_ids else []
        return [sample.block[column][sample.row] for sample in samples] or [np.array(padding, np.int64)]


def _extra_columns(samples: Sequence[Sample]) -> list[str]:
    names = samples[0].block if samples else ()
    return [name for name in names if name not in ALWAYS_READ and not column_named(name).for_people]


def _on_host(samples: Sequence[Sample]) -> dict[str, tuple[int, ...]]:
    """What the host keeps of the further columns."""
    names = [name for name in _extra_columns(samples) if column_named(name).on_host]
    return {name: tuple(_kept(sample.block[name], sample.row) for sample in samples) for name in names}


def _kept(column: Column, row: int) -> int:
    return len(column[row]) if isinstance(column, Ragged) else int(column[row])


def _extra(name: str, samples: Sequence[Sample]) -> torch.Tensor:
    """The tensor of a column, typed and padded as its description says."""
    column = column_named(name)
    rows = [np.asarray(sample.block[name][sample.row]).astype(column.dtype, copy=False) for sample in samples]
    if not isinstance(samples[0].block[name], Ragged):
        return torch.from_numpy(np.stack(rows))
    assert column.fill is not None, f"the column {name} has rows of unequal length and nothing to fill them up with"
    return pad_rows(rows, column.fill)[0]
