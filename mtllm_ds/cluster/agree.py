"""Decisions that all ranks take together: one all-reduce each, so that nobody is left waiting in another collective."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from mtllm_ds.cluster.collectives import counted
from mtllm_ds.errors import PeerFailedError, UserError
from mtllm_ds.step_parts import in_part

Result = TypeVar("Result")


def any_says(flag: bool, device: torch.device) -> bool:
    """True if `flag` is true on some rank."""
    return bool(_reduced(float(flag), dist.ReduceOp.MAX, device))


def anywhere(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """Which of several flags are true on some rank, in one all-reduce."""
    return [rank is not None for rank in lowest_ranks_where(flags, device)]


def lowest_rank_where(flag: bool, device: torch.device) -> int | None:
    """The lowest rank on which `flag` is true, or None."""
    return lowest_ranks_where([flag], device)[0]


def lowest_ranks_where(flags: Sequence[bool], device: torch.device) -> list[int | None]:
    """`lowest_rank_where` of several flags, in one all-reduce."""
    world, rank = world_size(), own_rank()
    lowest = torch.tensor([rank if flag else world for flag in flags], dtype=torch.int64, device=device)
    if world > 1:
        with counted("agreement", lowest):
            dist.all_reduce(lowest, op=dist.ReduceOp.MIN)
    return [found if found < world else None for found in lowest.tolist()]


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Elementwise sum of a tensor over all ranks (a new tensor, same dtype and device)."""
    total = values.detach().clone()
    if dist.is_initialized() and world_size() > 1:
        with counted("agreement", total):
            dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total


def together(work: Callable[[], Result], device: torch.device) -> Result:
    """`work()` of this rank, or a stop of all ranks: the lowest rank with a mistake tells it, the others leave quietly.

    For work without collectives inside, or work that fails alike on all ranks.
    """
    mistake: UserError | None = None
    try:
        result = work()
    except UserError as error:
        mistake = error
    culprit = lowest_rank_where(mistake is not None, device)
    if culprit is None:
        return result
    if mistake is not None and culprit == own_rank():
        raise mistake
    raise PeerFailedError(UserError.exit_status)


def each_together(items: Iterable[Result], device: torch.device) -> Iterator[Result]:
    """Items that are read one by one, with collectives in between; a mistake in reading stops all ranks, as in `together`.

    Every rank must bring equally many.
    """
    left = iter(items)
    while (item := together(lambda: next(left, None), device)) is not None:
        yield item


def from_main(work: Callable[[], Result], device: torch.device) -> Result:
    """`work()` of rank 0 (something small that pickles), told to all ranks; or a stop of all ranks, as in `together`."""
    told = [together(lambda: work() if is_main_rank() else None, device)]
    if world_size() > 1:
        with in_part("collectives"):
            dist.broadcast_object_list(told, src=0, device=device)
    return told[0]  # type: ignore[return-value]


def union_over_ranks(values: Collection[int], known: Collection[int], device: torch.device) -> set[int]:
    """All ranks' values together. Nothing but a flag travels while no rank has values beyond those that all `know`."""
    if not any_says(bool(set(values) - set(known)), device):
        return set(known)
    if world_size() == 1:
        return set(values)
    gathered: list[Any] = [None] * world_size()
    with in_part("collectives"):
        dist.all_gather_object(gathered, sorted(values))
    return {value for own in gathered for value in own}


def wait_for_all() -> None:
    """Barrier."""
    if dist.is_initialized() and world_size() > 1:
        dist.barrier()


def is_main_rank() -> bool:
    """Whether this is rank 0 (as the only process of a run is)."""
    return own_rank() == 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def own_rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _reduced(value: float, op: dist.ReduceOp.RedOpType, device: torch.device) -> float:
    if not dist.is_initialized() or world_size() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    with counted("agreement", tensor):
        dist.all_reduce(tensor, op=op)
    return float(tensor.item())
