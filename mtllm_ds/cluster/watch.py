"""A rank says what it does, once a second that it lives, and a process beside it (`watcher.py`) ends it when it hangs.

Nothing travels between ranks while all goes well. Where a bound is passed or a rank dies, each watcher leaves a report below the
run folder, and all come to the same verdict: the rank that died first, of which there is no word, that gives no sign of life, or
that has begun the fewest collectives. Collective time-outs follow the phases too, a little later, for what a watcher cannot end.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import math
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal

import torch.distributed as dist

from mtllm_ds.cluster import watcher
from mtllm_ds.cluster.agree import own_rank, world_size
from mtllm_ds.cluster.launch import COLLECTIVE_TIMEOUT, NO_TIMEOUT, set_collective_timeout
from mtllm_ds.errors import PeerFailedError, UnsoundStepError, UserError

Phase = Literal["start", "data", "prepare", "step", "log", "validation", "save"]
WORDS: dict[Phase, str] = {
    "start": "starting",
    "data": "waiting for the data of step {step}",
    "prepare": "preparing step {step} (its rollouts or previews)",
    "step": "taking step {step}",
    "log": "logging step {step}",
    "validation": "validating after step {step}",
    "save": "saving step {step}",
}
_BEAT_SECONDS = 1.0
_MARGIN = timedelta(seconds=30)
"""Between the watcher's bound and the time-out of a collective."""


class Watch:
    """Of one rank in one run. `limits` are in seconds by phase, None for no bound; `folder` is one that all ranks see.

    Until `started`, every phase is bounded as "start" is: first steps compile, and fill caches. Where the system lacks what a
    watcher needs (`is_supported`), collective time-outs alone hold.
    """

    def __init__(self, folder: Path, limits: Mapping[Phase, float | None]) -> None:
        self._limits, self._started = dict(limits), False
        handle = os.memfd_create("mtllm-watch") if is_supported() else None
        if handle is not None:
            os.ftruncate(handle, watcher.LAYOUT.size)
        self._memory = mmap.mmap(-1 if handle is None else handle, watcher.LAYOUT.size)
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._state, self._closed = watcher.RUNNING, False
        self._beats, self._number, self._limit, self._words = 0, 0, math.inf, ""
        self.enter("start", 0)
        self._dumps = _dump_on_request()
        self._process = None if handle is None else _start_watcher(handle, folder)
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    @property
    def is_watched(self) -> bool:
        """Whether a process stands beside this one."""
        return self._process is not None

    def enter(self, phase: Phase, step: int) -> None:
        """Say what comes now; `step` is counted from 1."""
        limit = self._limits["start" if not self._started and phase in ("data", "prepare", "step", "log") else phase]
        with self._lock:
            self._limit = math.inf if limit is None else limit
            self._words, self._number = WORDS[phase].format(step=step), self._number + 1
            self._write()
        set_collective_timeout(NO_TIMEOUT if limit is None else timedelta(seconds=limit) + _MARGIN)

    def started(self) -> None:
        """The first step is done: the short bounds hold from here on."""
        self._started = True

    def note_failure(self, error: Exception) -> None:
        """The rank ends by an exception, which its watcher places where no line of its own explains it."""
        if isinstance(error, UserError | UnsoundStepError | PeerFailedError):
            self._set_state(watcher.ORDERLY)
        else:
            self._set_state(watcher.LOST if _comes_from_others(error) else watcher.FAILED)

    def close(self) -> None:
        """The run is over for this rank."""
        self._stop.set()
        self._thread.join()
        if self._dumps:
            faulthandler.unregister(signal.SIGUSR2)
        if self._state in (watcher.FAILED, watcher.LOST):
            with self._lock:
                self._closed = True
                self._write()
            self._await_last_word()
        elif self._process is not None:
            self._process.kill()
            self._process.wait()
        set_collective_timeout(COLLECTIVE_TIMEOUT)

    def _await_last_word(self) -> None:
        """The watcher has a line to say before it goes; where a launcher is all that keeps a container or a SLURM step alive, it
        would be lost once this rank, and the launcher with it, has left."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(watcher.LAST_WORD_SECONDS)

    def _set_state(self, state: int) -> None:
        with self._lock:
            self._state = state
            self._write()

    def _beat(self) -> None:
        while not self._stop.wait(_BEAT_SECONDS):
            with self._lock:
                self._beats += 1
                self._write()

    def _write(self) -> None:
        words = self._words.encode()[:199]
        numbers = (self._state, self._closed, self._beats, self._number, num_collectives())
        watcher.LAYOUT.pack_into(self._memory, 0, *numbers, self._limit, words)


def is_supported() -> bool:
    """Whether a watcher can hold on to its rank: by handles of processes, as of Linux 5.3, which a container may forbid."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except AttributeError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return False
        raise
    return True


def _start_watcher(memory: int, folder: Path) -> subprocess.Popen[bytes]:
    """Takes `memory`, a file handle, over."""
    process = os.pidfd_open(os.getpid())
    numbers = [memory, process, os.getpid(), own_rank(), world_size()]
    command = [sys.executable, "-S", "-E", watcher.__file__, *map(str, numbers), str(folder)]
    # A session of its own: what is sent to the rank's whole group must not end it first.
    started = subprocess.Popen(command, pass_fds=[memory, process], stdin=subprocess.DEVNULL, start_new_session=True)
    os.close(memory)
    os.close(process)
    return started


def _comes_from_others(error: Exception) -> bool:
    """Whether a collective raised it; gloo does so without a class of its own."""
    return (
        isinstance(error, dist.DistError) or "gloo/transport" in str(error) or "Connection closed by peer" in str(error)
    )


def num_collectives() -> int:
    """Collectives that this process has begun, over all of its groups."""
    total = 0
    for group in list(dist.distributed_c10d._world.pg_map):
        with contextlib.suppress(RuntimeError):  # a backend that does not count
            total += group._get_sequence_number_for_group()  # type: ignore[attr-defined]
    return total


def _dump_on_request() -> bool:
    """Let a signal write where the main thread stands, whoever holds the interpreter."""
    try:
        faulthandler.register(signal.SIGUSR2, file=2, all_threads=False)
    except (ValueError, OSError, RuntimeError):  # no stderr
        return False
    return True
