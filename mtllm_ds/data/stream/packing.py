"""Several samples in one row: layouts with position resets, block-diagonal attention, and length buckets where rows must be padded.

The LLM's side is *packed*: the samples of a cell stand end to end in one row, each starting at position 0 and attending to itself
alone. The MT encoder takes no positions, so its inputs are padded, sorted by length into a few *buckets* that keep padding small;
its states are then packed for the LLM by `PackedRows.gather`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch


@dataclass
class PackedRows:
    """R rows of P tokens. B is the number of samples in the batch."""

    source: torch.Tensor
    """(R, P) int64: place of each token among the flattened padded values (`gather`); 0 at padding"""
    position_ids: torch.Tensor
    """(R, P) int64, from 0 within each sample; 0 at padding"""
    segment_ids: torch.Tensor
    """(R, P) int64, the sample (0 .. B-1) a token belongs to; -1 at padding"""
    cu_seqlens: torch.Tensor
    """(B + 1,) int32 ends of the samples among the tokens without padding, row by row, as flash-attn's varlen takes them"""
    token_places: torch.Tensor
    """(T,) int64, places of the tokens among the R * P, padding left out"""
    max_seqlen: int
    """Tokens of the longest sample"""

    @property
    def mask(self) -> torch.Tensor:
        """(R, P) int64, 1 at tokens"""
        return (self.segment_ids >= 0).long()

    def gather(self, flat: torch.Tensor) -> torch.Tensor:
        """(N,) ids or (N, D) states of flattened padded rows -> (R, P[, D]); padding repeats the first."""
        return flat[self.source]

    def of_tokens(self, values: torch.Tensor) -> torch.Tensor:
        """Values (R, P, ...) of the tokens, without padding: (T, ...)."""
        return values.flatten(0, 1)[self.token_places]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PackedRows":
        """The layout on another device."""
        return _to(self, device, non_blocking)


@dataclass
class PackedBatch:
    """What a model that packs reads instead of a batch's padded rows. `E` tokens lie in all buckets together, padding included."""

    encoder_buckets: list[torch.Tensor]
    """Each (B_k, S_k) int64 ids, B_k >= 1; equally many on every rank"""
    encoder_bucket_masks: list[torch.Tensor]
    """Each (B_k, S_k) int64"""
    encoder: PackedRows
    """Packs the encoder's states: `gather(torch.cat([states.flatten(0, 1) for states in bucket_states]))`, (E, D) -> (R, P, D)"""
    llm_ids: torch.Tensor
    """(R, P_l) int64"""
    llm: PackedRows
    """Layout of `llm_ids`"""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PackedBatch":
        """The batch on another device."""
        return _to(self, device, non_blocking)


def _to(value: Any, device: torch.device | str, non_blocking: bool) -> Any:
    moved = {}
    for field in fields(value):
        part = getattr(value, field.name)
        if isinstance(part, list):
            part = [tensor.to(device, non_blocking=non_blocking) for tensor in part]
        elif hasattr(part, "to"):
            part = part.to(device, non_blocking=non_blocking)
        moved[field.name] = part
    return type(value)(**moved)


def pack_batch(
    encoder_rows: Sequence[np.ndarray],
    llm_rows: Sequence[np.ndarray],
    cells: Sequence[int],
    pad_ids: dict[str, int],
    num_buckets: int,
) -> PackedBatch:
    """Pack each cell's samples into one row a side.

    Args:
        encoder_rows, llm_rows: (B) ids of each sample
        cells: (B,) non-decreasing cell of each sample
        num_buckets: encoder inputs a forward; where there are fewer samples, buckets of one padding token fill up
    """
    encoder_pad, llm_pad = pad_ids.get("encoder", 0), pad_ids.get("llm", 0)
    encoder_lengths = np.array([len(row) for row in encoder_rows])
    buckets, masks = [], []
    starts = np.zeros(len(encoder_rows), np.int64)
    end = 0
    for members in length_buckets(encoder_lengths, num_buckets):
        ids, mask = pad_rows([encoder_rows[i] for i in members] or [np.array([encoder_pad])], encoder_pad)
        starts[members] = end + np.arange(len(members)) * ids.shape[1]
        end += ids.numel()
        buckets.append(ids)
        masks.append(mask)
    llm_lengths = np.array([len(row) for row in llm_rows])
    llm = pack_rows(llm_lengths, np.cumsum(llm_lengths) - llm_lengths, cells)
    llm_ids = llm.gather(torch.from_numpy(np.concatenate(llm_rows).astype(np.int64)))
    llm_ids[llm.segment_ids < 0] = llm_pad
    return PackedBatch(buckets, masks, pack_rows(encoder_lengths, starts, cells), llm_ids, llm)


def pack_rows(lengths: np.ndarray, starts: np.ndarray, cells: Sequence[int]) -> PackedRows:
    """Layout with a row a cell.

    Args:
        lengths: (B,) tokens of each sample
        starts: (B,) place of each sample's first token among the flattened values
        cells: (B,) non-decreasing cell of each sample
    """
    samples_of_row = [np.flatnonzero(np.asarray(cells) == cell) for cell in dict.fromkeys(cells)]
    width = max(int(lengths[samples].sum()) for samples in samples_of_row)
    shape = len(samples_of_row), width
    source, positions, segments = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
    for row, samples in enumerate(samples_of_row):
        own = lengths[samples]
        position = np.arange(own.sum()) - np.repeat(np.cumsum(own) - own, own)
        positions[row, : len(position)] = position
        source[row, : len(position)] = np.repeat(starts[samples], own) + position
        segments[row, : len(position)] = np.repeat(samples, own)
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return PackedRows(
        source=torch.from_numpy(source),
        position_ids=torch.from_numpy(positions),
        segment_ids=torch.from_numpy(segments),
        cu_seqlens=torch.from_numpy(cu_seqlens),
        token_places=torch.from_numpy(np.flatnonzero(segments >= 0)),
        max_seqlen=int(lengths.max()),
    )


def pad_rows(rows: Sequence[np.ndarray], fill: float | bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, S, ...) values, padded on the right, and (B, S) int64 mask of rows (length, ...); integers of any type become int64."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    dtype = np.dtype(np.int64) if rows[0].dtype.kind in "ui" else rows[0].dtype
    values = np.full(mask.shape + rows[0].shape[1:], fill, dtype)
    values[mask] = np.concatenate(rows)
    return torch.from_numpy(values), torch.from_numpy(mask.astype(np.int64))


def length_buckets(lengths: np.ndarray, num_buckets: int) -> list[np.ndarray]:
    """Members of each bucket: the split of the samples, sorted by length, that pads least (dynamic programming, exact).

    Always `num_buckets` arrays; the last are empty where there are fewer samples.
    """
    order = np.argsort(lengths, kind="stable")
    ascending = lengths[order]
    count = len(lengths)
    ends = np.arange(count + 1)
    # cost[i, j]: padded tokens of samples i .. j-1 in one bucket
    cost = (ends[None, :] - ends[:, None]) * np.concatenate([[0], ascending])[None, :].astype(np.float64)
    cost[ends[:, None] >= ends[None, :]] = np.inf
    best = cost[0].copy()
    best[0] = np.inf
    cuts: list[np.ndarray] = []
    for _ in range(min(num_buckets, count) - 1):
        through = best[:, None] + cost
        cuts.append(through.argmin(axis=0))
        best = through.min(axis=0)
    end, members = count, []
    for cut in reversed(cuts):
        members.append(order[cut[end] : end])
        end = int(cut[end])
    members.append(order[:end])
    members.reverse()
    return members + [order[:0]] * (num_buckets - len(members))


def block_diagonal_mask(segment_ids: torch.Tensor, *, causal: bool, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Additive attention mask under which every sample sees itself alone: (R, P) -> (R, 1, P, P), 0 or the least finite number.

    Padding attends to itself, so that no row of the softmax is empty. Pass it as a model's 4-D `attention_mask`.
    """
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    if causal:
        same &= torch.ones(same.shape[-2:], dtype=torch.bool, device=same.device).tril()
    mask = torch.zeros(same.shape, dtype=dtype, device=same.device).masked_fill_(~same, torch.finfo(dtype).min)
    return mask[:, None]
