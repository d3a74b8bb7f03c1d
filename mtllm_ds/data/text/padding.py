"""Rows of ids of different lengths as one rectangle, and in an order that pads little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch


def padded(rows: Sequence[Sequence[int]], pad_id: int, multiple_of: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids padded on the right, and their mask (1 for a token, 0 for padding): (B, S) int64 each, S a multiple of `multiple_of`.

    Few different widths help on CPU: oneDNN compiles a kernel for each.
    """
    width = -multiple_of * (-max(map(len, rows)) // multiple_of)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    return ids, mask


def longest_first(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Batches of row numbers of similar length; the longest first shows a lack of memory at once."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
