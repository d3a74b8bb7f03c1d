"""Ranks of a training as processes of their own that may die in any way, started in a second: torch is imported once, then forked.

No launcher stands above them: whoever survives must leave by itself.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from benchmarks.faults.injection import Fault, record_memory

_PRELOADED = ["torch", "transformers", "deepspeed", "mtllm_ds.training.runs"]
_ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


class Ranks:
    """`mtllm-ds train ARGUMENTS` on some ranks, whose words go to a log; each step's memory goes to a folder, if there is one."""

    def __init__(
        self,
        world_size: int,
        arguments: Sequence[str],
        log: Path,
        fault: Fault | None = None,
        memory: Path | None = None,
    ) -> None:
        os.environ |= _ENVIRONMENT  # the server that forks has it from its first start
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        port = _free_port()
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._processes: list[BaseProcess] = []
        for rank in range(world_size):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_SIZE": world_size}
            environment = {name: str(value) for name, value in place.items()}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            process = context.Process(target=_serve, args=(environment, list(arguments), log, fault, memory))
            process.start()
            self._processes.append(process)

    def wait(self, seconds: float) -> list[int | None]:
        """Exit statuses by rank (negative: a signal) once all have ended; None of those that have not by then."""
        end = time.monotonic() + seconds
        for process in self._processes:
            process.join(max(0.0, end - time.monotonic()))
        return [process.exitcode for process in self._processes]

    @property
    def said(self) -> str:
        """What they have printed so far."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def kill(self) -> None:
        """End what is left."""
        for process in self._processes:
            process.kill()
            process.join()


def _serve(
    environment: dict[str, str], arguments: list[str], log: Path, fault: Fault | None, memory: Path | None
) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.setsid()
    os.environ |= environment
    import torch

    torch.set_num_threads(1)
    from mtllm_ds.child_processes import die_with
    from mtllm_ds.command_line import run_and_exit
    from mtllm_ds.commands import run_command

    die_with(os.getppid())  # whoever ends the benchmark leaves no rank behind

    if fault is not None and fault.rank == int(environment["RANK"]):
        fault.install()
    if memory is not None:
        record_memory(memory, int(environment["RANK"]))
    run_and_exit(lambda: run_command(["train", *arguments]))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
