"""Work that may take one rank hours longer than another: who is slow is waited for without a bound, who is dead is not.

Every rank says once a minute that it lives, in the store that the ranks met in; whoever is done looks there, and no collective
begins before all are done.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from mtllm_ds.cluster.agree import Result, own_rank, together, world_size
from mtllm_ds.cluster.launch import COLLECTIVE_TIMEOUT
from mtllm_ds.errors import PeerFailedError, UserError

_BEAT_SECONDS = 60.0
_LOST_SECONDS = COLLECTIVE_TIMEOUT.total_seconds()
_FIRST_LOOK_SECONDS, _LAST_LOOK_SECONDS = 0.02, 10.0
_calls = itertools.count()
"""All ranks make the same calls, in the same order."""


def patiently(work: Callable[[], Result], device: torch.device) -> Result:
    """`together` of work without collectives that ends at different times.

    For work outside training, whose watch sets bounds of its own.

    Raises:
        UserError: a mistake of some rank, as in `together`; or another rank has given no sign of life for half an hour.
        PeerFailedError: as in `together`; or another rank has failed by an exception of its own, which it tells.
    """
    if world_size() == 1:
        return work()
    company = _Company(next(_calls))
    try:
        mistake: UserError | None = None
        try:
            result = work()
        except UserError as error:
            mistake = error
        except BaseException:
            company.say_failed()
            raise
        company.wait_until_all_are_done()
    finally:
        company.leave()

    def outcome() -> Result:
        if mistake is not None:
            raise mistake
        return result

    return together(outcome, device)


class _Company:
    """The ranks of one call."""

    def __init__(self, call: int) -> None:
        self._store = dist.PrefixStore(f"patience-{call}", dist.distributed_c10d._get_default_store())
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def wait_until_all_are_done(self) -> None:
        """Raises `UserError` once a rank that is not done has been silent for too long."""
        self._store.add(f"done-{own_rank()}", 1)
        self._store.add("done", 1)
        seen: dict[int, tuple[int, float]] = {}
        pause, looked = _FIRST_LOOK_SECONDS, 0.0
        while self._count("done") < world_size():
            if self._count("failed"):
                raise PeerFailedError(1)
            now = time.monotonic()
            if now - looked >= _BEAT_SECONDS:
                looked = now
                for rank in range(world_size()):
                    self._look_at(rank, now, seen)
            time.sleep(pause)
            pause = min(1.5 * pause, _LAST_LOOK_SECONDS)

    def say_failed(self) -> None:
        self._store.add("failed", 1)

    def leave(self) -> None:
        self._left.set()
        self._thread.join()

    def _look_at(self, rank: int, now: float, seen: dict[int, tuple[int, float]]) -> None:
        """Whether it still beats, or has gone on to be done."""
        beats = self._count(f"beats-{rank}")
        if rank == own_rank() or self._count(f"done-{rank}") or seen.get(rank, (-1, 0.0))[0] != beats:
            seen[rank] = (beats, now)
        elif now - seen[rank][1] >= _LOST_SECONDS:
            raise UserError(
                f"rank {rank}: no sign of life for {_LOST_SECONDS / 60:.0f} minutes, its process or machine is lost; start the "
                "same command again"
            )

    def _beat(self) -> None:
        while True:
            self._store.add(f"beats-{own_rank()}", 1)
            if self._left.wait(_BEAT_SECONDS):
                return

    def _count(self, name: str) -> int:
        return int(self._store.add(name, 0))
