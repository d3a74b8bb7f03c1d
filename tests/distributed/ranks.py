"""Real ranks for tests: processes that join a gloo group once and then run one function after another.

Importing torch, transformers and deepspeed costs seconds a process, so a pool of each size lives as long as the session.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PARTITIONED = str(Path(__file__).with_name("partitioned.json"))
"""DeepSpeed's settings with all thresholds 0: the shipped ones leave weights as small as those of tests whole on every rank."""
TIMEOUT_SECONDS = 240


class RankError(AssertionError):
    """What a rank raised: `errors[rank]` is (type name, message, traceback) or None."""

    def __init__(self, errors: list[tuple[str, str, str] | None]) -> None:
        self.errors = errors
        found = [error for error in errors if error]
        first = next((error for error in found if error[0] != "PeerFailedError"), found[0])
        super().__init__(f"{first[0]}: {first[1]}\n{first[2]}")


class RankPool:
    """`world_size` processes in one process group."""

    def __init__(self, world_size: int) -> None:
        context = multiprocessing.get_context("spawn")
        port = _free_port()
        self.world_size = world_size
        self._processes, self._pipes = [], []
        for rank in range(world_size):
            mine, theirs = context.Pipe()
            # Not a daemon: DeepSpeed asks about the CPU in a child process, which a daemon may not have; without the
            # answer it compiles its collectives with other flags, over and over in turn with ordinary processes.
            process = context.Process(target=_serve, args=(rank, world_size, port, theirs))
            process.start()
            self._processes.append(process)
            self._pipes.append(mine)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """`function(*args)` on every rank at once: the results by rank, or `RankError`."""
        for pipe in self._pipes:
            pipe.send((function, args))
        answers = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(TIMEOUT_SECONDS):
                self.close()
                raise TimeoutError(f"rank {rank} of {self.world_size} gave no answer to {function.__name__}")
            answers.append(pipe.recv())
        errors = [error for _, error in answers]
        if any(errors):
            raise RankError(errors)
        return [result for result, _ in answers]

    @property
    def alive(self) -> bool:
        return all(process.is_alive() for process in self._processes)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


_POOLS: dict[int, RankPool] = {}


def ranks(world_size: int) -> RankPool:
    """The session's pool of that size."""
    if world_size not in _POOLS or not _POOLS[world_size].alive:
        _POOLS[world_size] = RankPool(world_size)
    return _POOLS[world_size]


def close_pools() -> None:
    for pool in _POOLS.values():
        pool.close()
    _POOLS.clear()


def _serve(rank: int, world_size: int, port: int, pipe: Connection) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error",
    }  # fmt: skip
    import torch

    from mtllm_ds.cluster import launch

    torch.set_num_threads(1)
    launch.leave_cluster = lambda: None  # whatever a command does at its end: the pool goes on
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((function(*args), None))
        except Exception as error:
            pipe.send((None, (type(error).__name__, str(error), traceback.format_exc())))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
