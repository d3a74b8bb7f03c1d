"""The collectives that this process begins, counted: how many, their bytes, and where a profiler shall see them.

DeepSpeed calls torch by the methods of one backend object, so what stands before those sees all of its collectives; the loop's own
count themselves (`counted`). Nothing is asked of a device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Literal

import torch
import torch.distributed as dist

from mtllm_ds.step_parts import in_part

Kind = Literal["all_gather", "reduce_scatter", "all_reduce", "broadcast", "all_to_all", "agreement"]
"""`agreement`: the loop's own all-reduces, of flags and of the log's sums; all others are DeepSpeed's."""

_METHODS: dict[str, Kind] = {
    "all_gather_into_tensor": "all_gather",
    "all_gather": "all_gather",
    "all_gather_coalesced": "all_gather",
    "reduce_scatter_tensor": "reduce_scatter",
    "reduce_scatter": "reduce_scatter",
    "all_reduce": "all_reduce",
    "all_reduce_coalesced": "all_reduce",
    "broadcast": "broadcast",
    "all_to_all_single": "all_to_all",
}
"""Of DeepSpeed's backend"""


@dataclass
class CollectiveCounts:
    """Since the process began, by kind."""

    calls: Counter[Kind] = field(default_factory=Counter)
    payload_bytes: Counter[Kind] = field(default_factory=Counter)
    """The whole tensors: what comes out of gathers, and goes into the others"""
    sent_bytes: Counter[Kind] = field(default_factory=Counter)
    """What this rank sends of them on a ring (`ring_bytes`)"""

    def add(self, kind: Kind, payload_bytes: int, num_ranks: int) -> None:
        """One call."""
        self.calls[kind] += 1
        self.payload_bytes[kind] += payload_bytes
        self.sent_bytes[kind] += ring_bytes(kind, payload_bytes, num_ranks)

    def copy(self) -> CollectiveCounts:
        """As they stand."""
        return CollectiveCounts(self.calls.copy(), self.payload_bytes.copy(), self.sent_bytes.copy())

    def since(self, before: CollectiveCounts) -> CollectiveCounts:
        """What has come on top of an earlier copy."""
        return CollectiveCounts(
            self.calls - before.calls, self.payload_bytes - before.payload_bytes, self.sent_bytes - before.sent_bytes
        )


COUNTS = CollectiveCounts()
"""Of this process"""


def ring_bytes(kind: str, payload_bytes: int, num_ranks: int) -> int:
    """What one of `num_ranks` ranks sends of a collective on a ring: of sums the payload goes around twice."""
    return passes_of(kind) * payload_bytes * (num_ranks - 1) // num_ranks


def passes_of(kind: str) -> int:
    """How often the payload of a collective goes around: sums come back."""
    return 2 if kind in ("all_reduce", "agreement") else 1


def count_deepspeed() -> None:
    """From now on the collectives of DeepSpeed's backend are counted; once is enough, and more do nothing."""
    from deepspeed.comm import comm

    for name, kind in _METHODS.items():
        method = getattr(comm.cdb, name, None)
        if method is not None and not hasattr(method, "counts_as"):
            setattr(comm.cdb, name, _counting(method, kind))


def counted(kind: Kind, payload: torch.Tensor) -> AbstractContextManager[object]:
    """Around a call of our own over all ranks."""
    COUNTS.add(kind, _num_bytes(payload), dist.get_world_size())
    return in_part("collectives")


def _counting(method: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, **options: Any) -> Any:
        given = (*args, *options.values())
        group = next((value for value in given if isinstance(value, dist.ProcessGroup)), None)
        COUNTS.add(kind, max(map(_num_bytes, given)), dist.get_world_size(group))
        with in_part("collectives"):
            work = method(*args, **options)
        return _SeenWork(work) if work is not None and torch.autograd._profiler_enabled() else work

    call.counts_as = kind  # type: ignore[attr-defined]
    return call


def _num_bytes(value: Any) -> int:
    """Of a tensor, or of a list of them."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.itemsize
    return sum(map(_num_bytes, value)) if isinstance(value, list | tuple) else 0


class _SeenWork:
    """A collective under way, whose waiting a profiler sees."""

    def __init__(self, work: Any) -> None:
        self._work = work

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)

    def wait(self, *args: Any, **options: Any) -> Any:
        with in_part("collectives"):
            return self._work.wait(*args, **options)
