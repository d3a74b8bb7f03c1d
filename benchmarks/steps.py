"""Steps of a long run: each has a folder, leaves `done.json` there, and is skipped once that is there; a killed run goes on."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from mtllm_ds.atomic import write_json
from mtllm_ds.errors import UserError
from mtllm_ds.training.preemption import EXIT_PREEMPTED

Command = list[str]
DONE, LOG = "done.json", "log.txt"


@dataclass(frozen=True)
class Step:
    """Commands that run one after the other; what they write belongs below the step's folder."""

    name: str
    """Folder below the run's root, such as `minilm/teacher/seed-0`."""
    commands: Sequence[Command] | Callable[[], Sequence[Command]]
    """A function is asked when the step starts: what it gives may depend on what earlier steps found."""
    needs: tuple[str, ...] = ()
    """Names of the steps that must be done before."""
    seconds: float = 0.0
    """Estimate on one quiet core, for the plan."""
    optional: bool = False
    """The run's result does not need it."""


class _StoppedError(UserError):
    """We ended the step: it is left for another time, and has not failed."""


class Steps:
    """Runs steps below `root`, `num_jobs` at a time, as soon as what they need is there."""

    def __init__(self, root: Path, num_jobs: int, environment: dict[str, str], console: Console) -> None:
        self.root = root
        self._num_jobs = num_jobs
        self._environment = environment
        self._console = console
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.RLock()  # a signal may come while `_stop` holds it
        self._stopping = False

    def is_done(self, step: Step) -> bool:
        """Has it run to its end?"""
        return (self.root / step.name / DONE).is_file()

    def run(self, steps: Sequence[Step], deadline_seconds: float = float("inf"), *, ends_there: bool = False) -> bool:
        """Run what is not done; False where something is left. After the deadline no new step begins; those under way are finished,
        or with `ends_there` asked to end, and go on another time.

        Raises `UserError` when SIGTERM left something, or a step fails: the others under way are finished first, so that they need
        not run again. An optional one that fails is told, and the run goes on without it and what needs it.
        """
        _check(steps)
        done = {step.name for step in steps if self.is_done(step)}
        todo = [step for step in steps if step.name not in done]
        self._console.print(f"{len(done)} of {len(steps)} steps are done", highlight=False)
        began = time.monotonic()
        under_way: dict[Future[float], Step] = {}
        failure: UserError | None = None
        in_time = True
        old = signal.signal(signal.SIGTERM, self._stop)
        try:
            with ThreadPoolExecutor(self._num_jobs) as pool:
                while todo or under_way:
                    late = time.monotonic() - began > deadline_seconds or failure is not None
                    ready = [] if late else [step for step in todo if done.issuperset(step.needs)]
                    ready.sort(key=lambda step: step.optional)  # what the result needs comes first
                    for step in ready[: self._num_jobs - len(under_way)]:
                        under_way[pool.submit(self._take, step)] = step
                        todo.remove(step)
                    if not under_way:
                        break
                    patience = (
                        began + deadline_seconds - time.monotonic() if ends_there and not self._stopping else None
                    )
                    finished = wait(under_way, _timeout(patience), FIRST_COMPLETED).done
                    if not finished:
                        in_time = False
                        self._stop()
                    for future in finished:
                        step = under_way.pop(future)
                        try:
                            seconds = future.result()
                        except UserError as error:
                            was_stopped = isinstance(error, _StoppedError)
                            if step.optional and not was_stopped:
                                self._console.print(
                                    f"not needed for the result: {error}", highlight=False, markup=False
                                )
                            elif not was_stopped:
                                failure = failure or error
                            continue
                        done.add(step.name)
                        line = f"[{len(done)}/{len(steps)}] {step.name}: {seconds:.0f} s"
                        self._console.print(line, highlight=False, markup=False)
        except KeyboardInterrupt:
            self._stop()
            raise
        finally:
            signal.signal(signal.SIGTERM, old)
        if failure is not None:
            raise failure
        num_left = len(steps) - len(done)
        if num_left and self._stopping and in_time:
            raise UserError(f"stopped by SIGTERM: {num_left} of {len(steps)} steps are left; start again to go on")
        return not num_left

    def _take(self, step: Step) -> float:
        folder = self.root / step.name
        folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        commands = step.commands() if callable(step.commands) else step.commands
        with (folder / LOG).open("a", encoding="utf-8") as log:
            for command in commands:
                log.write(f"$ {' '.join(command)}\n")
                log.flush()
                self._call(step, command, log)
        seconds = time.monotonic() - began
        write_json(folder / DONE, {"seconds": round(seconds, 1), "commit": commit(), "commands": commands})
        return seconds

    def _call(self, step: Step, command: Command, log) -> None:
        with self._lock:
            if self._stopping:
                raise _StoppedError(f"{step.name}: stopped; start again to go on")
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self._environment,
                start_new_session=True,
            )
            self._running.add(process)
        status = process.wait()
        with self._lock:
            self._running.discard(process)
            was_asked = self._stopping
        if status:
            path = self.root / step.name / LOG
            lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            was_stopped = was_asked and (status in _STOPPED or _ELASTIC_STOPPED in lines[-1])
            kind = _StoppedError if was_stopped else UserError
            raise kind(f"step {step.name} failed (status {status}): {lines[-1][:300]}; see {path}")

    def _stop(self, *_: object) -> None:
        """End what runs: each process group of ours gets SIGTERM, and saves what it can."""
        with self._lock:
            self._stopping = True
            for process in self._running:
                with contextlib.suppress(ProcessLookupError):  # it ended by itself just now
                    os.killpg(process.pid, signal.SIGTERM)


_STOPPED = (-signal.SIGTERM, 128 + signal.SIGTERM, EXIT_PREEMPTED)
"""Statuses of what ended since it was asked to: by the signal itself, or a training that saved first"""
_ELASTIC_STOPPED = f"got signal: {signal.SIGTERM.value}"
"""Last words of `torch.distributed.run`, which passes the signal on to its ranks, waits for them, and ends with 1"""


def _timeout(seconds: float | None) -> float | None:
    """What `wait` takes: None waits for ever."""
    return None if seconds is None or seconds == float("inf") else max(0.0, seconds)


def chosen_steps(steps: Sequence[Step], names: Sequence[str]) -> list[Step]:
    """Steps of these names, or below folders of these names, and all that they need, in order; all where none is named."""
    if not names:
        return list(steps)
    wanted: set[str] = set()
    for name in names:
        found = {step.name for step in steps if step.name == name or step.name.startswith(f"{name}/")}
        if not found:
            raise UserError(f"--only {name}: no step of that name; see --dry-run")
        wanted |= found
    for step in reversed(steps):  # what a step needs stands before it
        if step.name in wanted:
            wanted.update(step.needs)
    return [step for step in steps if step.name in wanted]


def describe(steps: Sequence[Step], done: Callable[[Step], bool], num_jobs: int) -> str:
    """The plan as text: a line a step with its estimate, and the sum."""
    lines = [f"{'done' if done(step) else f'{step.seconds:6.0f} s':>8}  {step.name}" for step in steps]
    left = sum(step.seconds for step in steps if not done(step))
    return "\n".join(
        [*lines, f"{len(steps)} steps, about {left / num_jobs / 60:.0f} minutes left with {num_jobs} at a time"]
    )


def python(*arguments: object) -> Command:
    """A command in this interpreter."""
    return [sys.executable, *map(str, arguments)]


def mtllm(*arguments: object) -> Command:
    """`mtllm-ds ...` in this interpreter."""
    return python("-m", "mtllm_ds", *arguments)


def require_same(path: Path, settings: dict[str, Any]) -> None:
    """Refuse to go on with other settings than those of the steps that are done; limits that are not set count as absent."""
    wanted = json.loads(json.dumps(settings))
    wanted["budget"] = {name: value for name, value in wanted["budget"].items() if value is not None}
    if not path.exists():
        write_json(path, wanted)
    kept = json.loads(path.read_text(encoding="utf-8"))
    kept["budget"] = {name: value for name, value in kept["budget"].items() if value is not None}
    for name, value in wanted.items():
        if kept.get(name, value) != value:  # what older runs did not record counts as the same
            raise UserError(f"{path.parent}: begun with other settings ({name}); name another --output or remove it")


@functools.cache
def commit() -> str:
    """Of the code that runs, `+` where files of it are changed; empty without git."""
    try:
        asked = subprocess.run(["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True)
    except OSError:
        return ""
    return asked.stdout.strip()


def _check(steps: Sequence[Step]) -> None:
    names = [step.name for step in steps]
    assert len(set(names)) == len(names), "two steps share a name"
    known: set[str] = set()
    for step in steps:
        assert known.issuperset(step.needs), f"{step.name} needs {set(step.needs) - known}, which come later or never"
        known.add(step.name)
