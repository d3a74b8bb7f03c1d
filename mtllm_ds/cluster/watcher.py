"""The other half of `watch.py`: a small process beside each rank that ends it when it hangs, and says where.

It runs as a script of its own with nothing but the standard library: a rank that is stopped by a signal, or whose interpreter is
held by a library, can no longer look at itself. Time in which this process was stopped too does not count, nor that in which the
rank is stopped and nobody waits for it (Ctrl-Z stops all ranks, but no watcher).

    python watcher.py MEMORY_FD PID_FD PID RANK WORLD_SIZE FOLDER
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

LAYOUT = struct.Struct("<qqqqqd200s")
RUNNING, ORDERLY, FAILED, LOST = range(4)
"""What a rank says of itself. `ORDERLY`: a line of its own explains its end; `LOST`: an exception out of a collective, so another
rank's end may lie behind it."""
_KINDS = {RUNNING: "died", FAILED: "failed", LOST: "lost the other ranks"}
_ENDED = ("died", "failed")

POLL_SECONDS = 0.2
GRACE_SECONDS = 4.0
"""After the bound, for the watchers of other ranks to come to theirs."""
LIFELESS_SECONDS = 4.0
"""Without a beat, which should come every second: stopped, or its interpreter is held."""
_FOLDER_SECONDS = 10.0
"""Longest that a shared folder is waited for: it may be what hangs."""
LAST_WORD_SECONDS = GRACE_SECONDS + 3 * _FOLDER_SECONDS
"""Within which all is said of a rank that failed."""


class Seen(NamedTuple):
    """What a rank last wrote."""

    state: int
    closed: bool
    """It has given back all that it held, and needs no watcher."""
    beats: int
    number: int
    """Of the phase, counted from 1"""
    collectives: int
    """Begun so far, over all process groups"""
    limit_seconds: float
    """Of the phase; infinite for none"""
    phase: str

    @classmethod
    def read(cls, memory: mmap.mmap) -> Seen:
        state, closed, beats, number, collectives, limit_seconds, phase = LAYOUT.unpack_from(memory, 0)
        words = phase.rstrip(b"\0").decode("utf-8", "replace")
        return cls(state, bool(closed), beats, number, collectives, limit_seconds, words)


class Clock:
    """Seconds since something last changed, as far as this process was awake to see them."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._values: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}

    def look(self, values: dict[str, Any], now: float | None = None) -> None:
        """Take in what is seen now."""
        now = time.monotonic() if now is None else now
        passed = min(now - self._last, 5 * POLL_SECONDS)
        self._last = now
        for name, value in values.items():
            changed = self._values.get(name) != value
            self.seconds[name] = 0.0 if changed else self.seconds.get(name, 0.0) + passed
        self._values = dict(values)


def verdict(reports: dict[int, dict[str, Any]], world_size: int) -> tuple[int | None, str]:
    """The rank to blame (None: no single one) and why, from what the watchers of all ranks report."""
    ended = [report for report in reports.values() if report["kind"] in _ENDED]
    if ended:
        first = min(ended, key=lambda report: report["time"])
        return first["rank"], f"it {first['kind']} there, the others wait for it"
    if silent := sorted(set(range(world_size)) - set(reports)):
        shown = ", ".join(map(str, silent[:8])) + (", ..." if len(silent) > 8 else "")
        return silent[0], f"no word of rank {shown}: its machine is lost, or it is elsewhere"
    hanging = [report for report in reports.values() if report["kind"] == "hangs"]
    lifeless = [report for report in hanging if report["lifeless_seconds"] >= LIFELESS_SECONDS]
    if lifeless:
        # Who was stopped is to blame, however long its clock stood still.
        first = max(lifeless, key=lambda report: (report["process"] in "Tt", report["lifeless_seconds"]))
        why = "stopped by a signal" if first["process"] in "Tt" else "held by a call that lets no other thread run"
        return first["rank"], f"its process gives no sign of life, {why}"
    if world_size == 1:
        return 0, "the stack that follows says where"
    fewest = min(hanging, key=lambda report: (report["number"], report["collectives"], report["rank"]))
    most = max((report["number"], report["collectives"]) for report in hanging)
    if (fewest["number"], fewest["collectives"]) != most:
        return fewest["rank"], f"it has begun {fewest['collectives']} collectives, another rank {most[1]}"
    return None, (
        "all ranks stand at the same place: in one collective, then look at the network between them, or in what each does alone, "
        "such as reading a disk; the stacks that follow say which"
    )


class Watcher:
    """Looks at one rank until that ends. `process` is a pidfd, opened by the rank itself: once the rank is gone, its number, or the
    parent of this process, may be another process."""

    def __init__(self, memory: mmap.mmap, process: int, pid: int, rank: int, world_size: int, folder: Path) -> None:
        self._memory, self._process, self._pid = memory, process, pid
        self._rank, self._world_size, self._folder = rank, world_size, folder
        self._clock = Clock()
        self._ends = select.poll()
        self._ends.register(process, select.POLLIN)

    def run(self) -> None:
        told = False
        while True:
            gone = bool(self._ends.poll(POLL_SECONDS * 1000))
            seen = Seen.read(self._memory)
            if not told and (seen.state in (FAILED, LOST) or (gone and seen.state == RUNNING)):
                self._tell_end(seen)
                told = True
            if gone or seen.closed:
                return
            stopped = _process_state(self._pid) in "Tt"
            waited_for = stopped and self._others_hang()
            # The bound begins anew where a suspended rank goes on, and where one that fails begins to close.
            phase = object() if stopped and not waited_for else (seen.number, seen.state)
            self._clock.look({"phase": phase, "beat": seen.beats})
            if (waited_for or self._clock.seconds["phase"] > seen.limit_seconds) and self._end(seen):
                return

    def _end(self, seen: Seen) -> bool:
        """End a rank that is beyond its bound; False where it moved on in the last moment."""
        return self._end_hanging(seen) if seen.state == RUNNING else self._end_closing(seen)

    def _tell_end(self, seen: Seen) -> None:
        """Say where the rank ended, unless another was the first to."""
        kind = _KINDS[seen.state]
        report = self._report(seen, kind)
        self._shared(report)
        if seen.state == LOST:
            # The rank that died closes its connections first, and is seen to have ended when its memory is free.
            time.sleep(GRACE_SECONDS)
        others = [other for other in self._shared(report).values() if other["rank"] != self._rank]
        weightier = () if kind in _ENDED else (*_ENDED, "hangs")
        alike = _ENDED if kind in _ENDED else (kind,)
        if not any(
            other["kind"] in weightier or (other["kind"] in alike and other["time"] < report["time"])
            for other in others
        ):
            self._say(f"rank {self._rank} (process {self._pid} on {report['host']}) {kind} while {seen.phase}")

    def _end_closing(self, seen: Seen) -> bool:
        """End a rank that has failed and hangs in what it still had to close."""
        seconds = self._clock.seconds["phase"]
        self._say(
            f"rank {self._rank} (process {self._pid} on {socket.gethostname()}) does not end: for {seconds:.0f} s after its "
            "error it hangs in closing what it had open; it is ended"
        )
        self._kill(with_stack=True)
        return True

    def _end_hanging(self, seen: Seen) -> bool:
        """End a rank that hangs, once the watchers of all have agreed on whose fault it is."""
        report = self._report(seen, "hangs")
        self._shared(report)
        time.sleep(GRACE_SECONDS)
        now = Seen.read(self._memory)
        if (now.number, now.state) != (seen.number, seen.state):
            self._in_folder(lambda: self._place.unlink(missing_ok=True))
            return False
        reports = self._shared(report)
        culprit, why = verdict(reports, self._world_size)
        hanging = [one for one in reports.values() if one["kind"] == "hangs"]
        if self._rank == min(one["rank"] for one in hanging):
            known = reports.get(-1 if culprit is None else culprit)
            who = "the run" if culprit is None else f"rank {culprit}"
            where = f" (process {known['pid']} on {known['host']})" if known else ""
            seconds = max(one["seconds"] for one in hanging)
            self._say(
                f"{who}{where} hangs while {(known or report)['phase']}, for {seconds:.0f} s, more than "
                f"{seen.limit_seconds:g}: {why}; all ranks end, go on with --resume auto"
            )
        self._kill(with_stack=culprit in (None, self._rank) and report["process"] not in "Tt")
        return True

    def _kill(self, *, with_stack: bool) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            if with_stack:
                signal.pidfd_send_signal(self._process, signal.SIGUSR2)  # faulthandler writes where it stands
                time.sleep(1)
            signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def _report(self, seen: Seen, kind: str) -> dict[str, Any]:
        return {
            "kind": kind,
            "rank": self._rank,
            "host": socket.gethostname(),
            "pid": self._pid,
            "time": time.time(),
            "phase": seen.phase,
            "number": seen.number,
            "collectives": seen.collectives,
            "seconds": self._clock.seconds.get("phase", 0.0),
            "lifeless_seconds": self._clock.seconds.get("beat", 0.0),
            "process": _process_state(self._pid),
        }

    @property
    def _place(self) -> Path:
        return self._folder / f"rank-{self._rank:05d}.json"

    def _shared(self, report: dict[str, Any]) -> dict[int, dict[str, Any]]:
        """Tell other ranks' watchers, and what they have told; our own alone where the folder does not answer."""

        def tell() -> None:
            self._folder.mkdir(parents=True, exist_ok=True)
            place = self._place.with_suffix(".tmp")
            place.write_text(json.dumps(report), encoding="utf-8")
            os.replace(place, self._place)

        self._in_folder(tell)
        return {**self._told(), self._rank: report}

    def _others_hang(self) -> bool:
        """Whether another rank's watcher has found it beyond its bound."""
        return any(rank != self._rank and one["kind"] == "hangs" for rank, one in self._told().items())

    def _told(self) -> dict[int, dict[str, Any]]:
        """What the watchers of all ranks have told."""
        found: dict[int, dict[str, Any]] = {}

        def read() -> None:
            for path in self._folder.glob("rank-*.json"):
                with contextlib.suppress(OSError, ValueError):  # taken back by now
                    other = json.loads(path.read_text(encoding="utf-8"))
                    found[other["rank"]] = other

        self._in_folder(read)
        return dict(found)

    def _in_folder(self, work: Callable[[], None]) -> None:
        """Do it within `_FOLDER_SECONDS`, or leave it."""

        def try_it() -> None:
            with contextlib.suppress(OSError):
                work()

        thread = threading.Thread(target=try_it, daemon=True)
        thread.start()
        thread.join(_FOLDER_SECONDS)

    def _say(self, line: str) -> None:
        os.write(2, f"watch: {line}\n".encode())


def _process_state(pid: int) -> str:
    """The letter of /proc: T stopped, D waiting for a disk, R running, S sleeping; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "?"


def main() -> None:
    *numbers, folder = sys.argv[1:]
    handle, process, pid, rank, world_size = map(int, numbers)
    # Launchers end a rank's whole tree politely first: we stay until the rank itself has ended.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    with mmap.mmap(handle, LAYOUT.size) as memory:
        Watcher(memory, process, pid, rank, world_size, Path(folder)).run()


if __name__ == "__main__":
    main()
