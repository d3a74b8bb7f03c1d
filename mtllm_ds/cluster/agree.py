"""Decisions that all ranks take together: one all-reduce each, so that nobody is left waiting in another collective."""

from __future__ import annotations

import torch
import torch.distributed as dist


def all_agree(flag: bool, device: torch.device) -> bool:
    """True if `flag` is true on every rank."""
    return bool(_reduced([float(flag)], dist.ReduceOp.MIN, device)[0])


def any_says(flag: bool, device: torch.device) -> bool:
    """True if `flag` is true on some rank."""
    return bool(_reduced([float(flag)], dist.ReduceOp.MAX, device)[0])


def lowest_rank_where(flag: bool, device: torch.device) -> int | None:
    """The lowest rank on which `flag` is true, or None."""
    world = world_size()
    mine = float(dist.get_rank() if dist.is_initialized() else 0) if flag else float(world)
    lowest = int(_reduced([mine], dist.ReduceOp.MIN, device)[0])
    return lowest if lowest < world else None


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Elementwise sum of a tensor over all ranks (a new tensor, same dtype and device)."""
    total = values.detach().clone()
    if dist.is_initialized() and world_size() > 1:
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total


def wait_for_all() -> None:
    """Barrier."""
    if dist.is_initialized() and world_size() > 1:
        dist.barrier()


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _reduced(values: list[float], op: dist.ReduceOp.RedOpType, device: torch.device) -> list[float]:
    if not dist.is_initialized() or world_size() == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op=op)
    return tensor.tolist()
