"""Faults, and where in a training they strike: the kinds that NVIDIA's resiliency tools inject, as far as a CPU has them.

(Of theirs a GPU error and a GPU that sleeps need a GPU; `sleep` is the host's: a call that does not return, other threads run.)
"""

from __future__ import annotations

import ctypes
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

PLACES = ("step", "save", "evaluation", "rollout")
MEMORY = "memory-rank-{rank}.jsonl"
_HANG_SECONDS = 100_000


def _raise(*_: object) -> None:
    raise RuntimeError("a fault that was put in")


def _raise_from_outside() -> None:
    """An exception that another thread puts into this one."""
    me = ctypes.c_ulong(threading.get_ident())
    threading.Thread(
        target=lambda: ctypes.pythonapi.PyThreadState_SetAsyncExc(me, ctypes.py_object(RuntimeError))
    ).start()
    for _ in range(600):  # it arrives between two instructions
        time.sleep(0.1)


def _raise_in_handler() -> None:
    signal.signal(signal.SIGALRM, _raise)
    signal.raise_signal(signal.SIGALRM)


def _kill_a_reader() -> None:
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGKILL)


def _signal(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


KINDS: dict[str, Callable[[], object]] = {
    "exception": _raise,
    "asynchronous exception": _raise_from_outside,
    "exception in a signal handler": _raise_in_handler,
    "abort": os.abort,
    "segfault": lambda: ctypes.string_at(0),
    "GIL held": lambda: ctypes.PyDLL(None).sleep(_HANG_SECONDS),
    "sleep": lambda: time.sleep(_HANG_SECONDS),
    "SIGINT": _signal(signal.SIGINT),
    "SIGTERM": _signal(signal.SIGTERM),
    "SIGKILL": _signal(signal.SIGKILL),
    "SIGSTOP": _signal(signal.SIGSTOP),
}
NAN = "NaN"
"""A loss that is none, in a step: nothing ends there but all ranks together."""
POLITE = ("SIGINT", "SIGTERM", "SIGUSR1")
"""Those after which a run saves and leaves in good order."""
OTHERS: dict[str, Callable[[], object]] = {
    "SIGUSR1": _signal(signal.SIGUSR1),
    "a reader is killed": _kill_a_reader,
    "slow": lambda: time.sleep(2.0),
}


class _MallInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def record_memory(folder: Path, rank: int) -> None:
    """Called in a rank's process: before each step, a row of what the C library and Python have handed out and not got back."""
    from mtllm_ds.cluster.watch import Watch

    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = _MallInfo
    enter = Watch.enter

    def call(watch: Watch, phase: Any, step: int) -> None:
        enter(watch, phase, step)
        if phase == "data":
            info = ask()
            row = {
                "process": os.getpid(),
                "step": step,
                "allocated_bytes": info.uordblks + info.hblkhd,
                "python_blocks": sys.getallocatedblocks(),
            }
            with (folder / MEMORY.format(rank=rank)).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")

    Watch.enter = call  # type: ignore[method-assign, assignment]


@dataclass(frozen=True)
class Fault:
    """Strikes once on one rank, at the first chance in the given place from `step` (counted from 1) on."""

    kind: str
    place: str
    rank: int
    step: int
    note: Path
    """Holds the time of the strike."""
    share_of_save: float | None = None
    """In place "save": it strikes so far into one, as a share of the time that the rank's save before took."""
    often: bool = False
    """At every chance."""

    def install(self) -> None:
        """Called in the rank's process, before it trains."""
        from mtllm_ds.checkpoint import store
        from mtllm_ds.cluster.watch import Watch
        from mtllm_ds.cluster.zero import TrainableState
        from mtllm_ds.models.rollouts import StudentWriter
        from mtllm_ds.training.engine import Engine

        now: dict[str, Any] = {"phase": "start", "step": 0, "since": time.monotonic(), "save_seconds": 0.0}
        struck: list[float] = []

        def noted(enter: Callable) -> Callable:
            def call(watch: Watch, phase: str, step: int) -> None:
                if now["phase"] == "save":
                    now["save_seconds"] = time.monotonic() - now["since"]
                now.update(phase=phase, step=step, since=time.monotonic())
                enter(watch, phase, step)
                if self.share_of_save is not None and phase == "save" and step >= self.step and not struck:
                    struck.append(time.time())
                    self._strike_later(self.share_of_save * now["save_seconds"])

            return call

        def striking(phase: str, work: Callable, *, after: bool = False) -> Callable:
            def call(*given: Any, **options: Any) -> Any:
                result = work(*given, **options) if after else None
                if now["phase"] == phase and now["step"] >= self.step and (self.often or not struck):
                    struck.append(time.time())
                    self._strike()
                return result if after else work(*given, **options)

            return call

        def spoiling(forward: Callable) -> Callable:
            def call(engine: Engine, batch: Any) -> Any:
                output = forward(engine, batch)
                if now["phase"] != "step" or now["step"] < self.step or struck:
                    return output
                struck.append(time.time())
                self._note()
                return replace(output, loss_sum=output.loss_sum * math.nan)

            return call

        Watch.enter = noted(Watch.enter)  # type: ignore[method-assign]
        if self.share_of_save is not None:
            return
        if self.kind == NAN:
            Engine.forward = spoiling(Engine.forward)  # type: ignore[method-assign]
        elif self.place == "step":
            Engine.backward = striking("step", Engine.backward)  # type: ignore[method-assign]
        elif self.place == "rollout":
            StudentWriter.write = striking("prepare", StudentWriter.write)  # type: ignore[method-assign]
        elif self.place == "evaluation":
            Engine.forward = striking("validation", Engine.forward)  # type: ignore[method-assign]
        elif self.rank == 0:  # it writes: one file is there, the next is not
            store.save_file = striking("save", store.save_file, after=True)
        else:  # it gathers with the others
            TrainableState.get = striking("save", TrainableState.get)  # type: ignore[method-assign]

    def _note(self) -> None:
        self.note.write_text(str(time.time()))

    def _strike(self) -> None:
        self._note()
        {**KINDS, **OTHERS}[self.kind]()

    def _strike_later(self, seconds: float) -> None:
        """Whatever is done then."""
        timer = threading.Timer(seconds, self._strike)
        timer.daemon = True
        timer.start()
