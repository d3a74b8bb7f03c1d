"""What all ranks have, on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from mtllm_ds.cluster.agree import own_rank, world_size
from mtllm_ds.cluster.collectives import counted

Value = TypeVar("Value")


def rows_of_all_ranks(parts: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """All ranks' parts, each some rows (n, ...): by part, then by rank. This rank's own are what it gave, their graph included.

    Every rank brings equally many parts, of rows of one shape and dtype; how many rows may differ, none among them.
    """
    if world_size() == 1:
        return [[part] for part in parts]
    own = torch.cat([part.detach() for part in parts])
    sizes = _from_all(torch.tensor([len(part) for part in parts], device=own.device)).tolist()
    padded = own.new_zeros(max(map(sum, sizes)), *own.shape[1:])  # a collective takes the same from every rank
    padded[: len(own)] = own
    by_rank = [
        list(rows[: sum(of_rank)].split(of_rank)) for rows, of_rank in zip(_from_all(padded), sizes, strict=True)
    ]
    by_rank[own_rank()] = list(parts)
    return [list(of_ranks) for of_ranks in zip(*by_rank, strict=True)]


def _from_all(tensor: torch.Tensor) -> torch.Tensor:
    """(...) -> (ranks, ...)"""
    found = tensor.new_empty(world_size(), *tensor.shape)
    with counted("all_gather", found):
        dist.all_gather(list(found), tensor)
    return found


def from_all_ranks(value: Value) -> list[Value]:
    """Something small that pickles, of each rank by rank, on every rank."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found
