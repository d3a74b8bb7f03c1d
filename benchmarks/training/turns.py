"""Processes that take turns: each makes one step when it is told to, and waits without work between.

So every variant has processes, memory and libraries of its own, and yet all are measured in one run, round by round: what disturbs
the machine for a while disturbs all alike.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from mtllm_ds.child_processes import die_with

START_SECONDS, TURN_SECONDS = 480.0, 240.0
_END = "end"


@dataclass(frozen=True)
class Turn:
    """What a rank tells of a step."""

    seconds: float
    peak_bytes: int
    """Most memory of the device so far; of the CPU, resident in this process"""


class Turns:
    """A rank's side."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._began: float | None = None

    def next(self) -> None:
        """Ends the step under way, if there is one, and waits until the next may begin; leaves the process when all is measured."""
        now = _now()
        if self._began is None:
            self._pipe.send("ready")
        else:
            _release()
            self._pipe.send(Turn(now - self._began, _peak_bytes()))
        if self._pipe.recv() == _END:
            sys.exit(0)
        self._began = _now()


Rank = Callable[..., None]
"""Joins its ranks, builds what it has to, and calls `Turns.next` before each step; takes `Turns` first"""


class Group:
    """The ranks of one variant, from outside."""

    def __init__(self, function: Rank, *args: Any, num_ranks: int, num_threads: int) -> None:
        context, port = multiprocessing.get_context("spawn"), _free_port()
        self._pipes, self._processes = [], []
        for rank in range(num_ranks):
            mine, theirs = context.Pipe()
            place = _Place(rank, num_ranks, port, num_threads, os.getpid())
            process = context.Process(target=_serve, args=(theirs, place, function, args))
            process.start()
            theirs.close()
            self._pipes.append(mine)
            self._processes.append(process)

    def wait_until_ready(self) -> None:
        """Raises `RuntimeError` where a rank fails, as do the others."""
        for _ in self._answers(START_SECONDS):
            pass

    def take(self) -> list[Turn]:
        """Let all ranks make one step: what each tells of it."""
        for rank, pipe in enumerate(self._pipes):
            try:
                pipe.send("go")
            except OSError:
                raise RuntimeError(f"rank {rank} has died") from None
        return self._answers(TURN_SECONDS)

    def close(self) -> None:
        """End the ranks, by force where they do not end by themselves."""
        for pipe in self._pipes:
            try:
                pipe.send(_END)
            except OSError:  # it has ended already
                continue
        for process in self._processes:
            process.join(20)
            if process.is_alive():
                process.kill()
                process.join()

    def _answers(self, seconds: float) -> list[Any]:
        answers = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(seconds):
                raise RuntimeError(f"rank {rank} gave no answer within {seconds:.0f} s")
            try:
                answer = pipe.recv()
            except EOFError:
                raise RuntimeError(f"rank {rank} has died") from None
            if isinstance(answer, str) and answer != "ready":
                raise RuntimeError(f"rank {rank}: {answer}")
            answers.append(answer)
        return answers


@dataclass(frozen=True)
class _Place:
    """Of a rank among those of its variant."""

    rank: int
    num_ranks: int
    port: int
    num_threads: int
    parent: int


def _serve(pipe: Connection, place: _Place, function: Rank, args: tuple[Any, ...]) -> None:
    die_with(place.parent)
    os.environ |= {
        "RANK": str(place.rank), "LOCAL_RANK": str(place.rank), "WORLD_SIZE": str(place.num_ranks),
        "LOCAL_WORLD_SIZE": str(place.num_ranks), "LOCAL_SIZE": str(place.num_ranks), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(place.port),
    }  # fmt: skip
    torch.set_num_threads(place.num_threads)
    try:
        function(Turns(pipe), *args)
    except Exception as error:
        traceback.print_exc()
        pipe.send(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _release() -> None:
    """Leave the device's memory to the one whose turn is next."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
