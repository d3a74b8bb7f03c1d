"""The other half of `watch.py`: a small process beside each rank that ends it when it hangs, and says where.

It runs as a script of its own with nothing but the standard library: a rank that is stopped by a signal, or whose interpreter is
held by a library, can no longer look at itself. Time in which this process was stopped too (a suspended job) does not count.

    python watcher.py MEMORY_FD RANK WORLD_SIZE FOLDER
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
from pathlib import Path
from typing import Any, NamedTuple

LAYOUT = struct.Struct("<qqqqd200s")
RUNNING, ORDERLY, FAILED = range(3)
"""What a rank says of itself; `ORDERLY`: its end, if it comes, is explained by a line of its own."""

POLL_SECONDS = 0.2
GRACE_SECONDS = 4.0
"""After the bound, for the watchers of other ranks to come to theirs."""
LIFELESS_SECONDS = 4.0
"""Without a beat, which should come every second: stopped, or its interpreter is held."""
_FOLDER_SECONDS = 10.0
"""Longest that a shared folder is waited for: it may be what hangs."""


class Seen(NamedTuple):
    """What a rank last wrote."""

    state: int
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
        state, beats, number, collectives, limit_seconds, phase = LAYOUT.unpack_from(memory, 0)
        words = phase.rstrip(b"\0").decode("utf-8", "replace")
        return cls(state, beats, number, collectives, limit_seconds, words)


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
    ended = [report for report in reports.values() if report["kind"] != "hangs"]
    if ended:
        first = min(ended, key=lambda report: report["time"])
        return first["rank"], f"it {first['kind']} there, the others wait for it"
    if silent := sorted(set(range(world_size)) - set(reports)):
        shown = ", ".join(map(str, silent[:8])) + (", ..." if len(silent) > 8 else "")
        return silent[0], f"no word of rank {shown}: its machine is lost, or it is elsewhere"
    lifeless = [report for report in reports.values() if report["lifeless_seconds"] >= LIFELESS_SECONDS]
    if lifeless:
        first = max(lifeless, key=lambda report: report["lifeless_seconds"])
        why = "stopped by a signal" if first["process"] in "Tt" else "held by a call that lets no other thread run"
        return first["rank"], f"its process gives no sign of life, {why}"
    fewest = min(reports.values(), key=lambda report: (report["number"], report["collectives"], report["rank"]))
    most = max((report["number"], report["collectives"]) for report in reports.values())
    if (fewest["number"], fewest["collectives"]) != most:
        return fewest["rank"], f"it has begun {fewest['collectives']} collectives, another rank {most[1]}"
    return None, "all ranks wait in the same collective: look at the network between them"


class Watcher:
    """Looks at one rank until that ends."""

    def __init__(self, memory: mmap.mmap, rank: int, world_size: int, folder: Path) -> None:
        self._memory, self._rank, self._world_size, self._folder = memory, rank, world_size, folder
        self._parent = os.getppid()
        self._clock = Clock()
        self._ends = select.poll()
        self._ends.register(os.pidfd_open(self._parent), select.POLLIN)

    def run(self) -> None:
        while True:
            gone = bool(self._ends.poll(POLL_SECONDS * 1000))
            seen = Seen.read(self._memory)
            if gone and seen.state == ORDERLY:
                return
            if gone or seen.state == FAILED:
                return self._tell_end(seen)
            self._clock.look({"phase": seen.number, "beat": seen.beats})
            if self._clock.seconds["phase"] > seen.limit_seconds and self._end_hanging(seen):
                return

    def _tell_end(self, seen: Seen) -> None:
        """Say where the rank ended, unless another was the first to."""
        report = self._report(seen, "failed" if seen.state == FAILED else "died")
        others = self._shared(report)
        earlier = [other for other in others.values() if other["rank"] != self._rank and other["time"] < report["time"]]
        if not earlier:
            self._say(
                f"rank {self._rank} (process {self._parent} on {report['host']}) {report['kind']} while {seen.phase}"
            )

    def _end_hanging(self, seen: Seen) -> bool:
        """End a rank that is beyond its bound; False where it moved on in the last moment."""
        report = self._report(seen, "hangs")
        self._shared(report)
        time.sleep(GRACE_SECONDS)
        now = Seen.read(self._memory)
        if now.number != seen.number or now.state != RUNNING:
            return False
        reports = self._shared(report)
        culprit, why = verdict(reports, self._world_size)
        if self._rank == min(number for number, one in reports.items() if one["kind"] == "hangs"):
            known = reports.get(-1 if culprit is None else culprit)
            who = "the run" if culprit is None else f"rank {culprit}"
            where = f" (process {known['pid']} on {known['host']})" if known else ""
            self._say(
                f"{who}{where} hangs while {(known or report)['phase']}, for {report['seconds']:.0f} s, more than "
                f"{seen.limit_seconds:g}: {why}; all ranks end, go on with --resume auto"
            )
        try:
            if culprit in (None, self._rank) and report["process"] not in "Tt":
                os.kill(self._parent, signal.SIGUSR2)  # faulthandler writes where it stands
                time.sleep(1)
            os.kill(self._parent, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it ended by itself
        return True

    def _report(self, seen: Seen, kind: str) -> dict[str, Any]:
        return {
            "kind": kind,
            "rank": self._rank,
            "host": socket.gethostname(),
            "pid": self._parent,
            "time": time.time(),
            "phase": seen.phase,
            "number": seen.number,
            "collectives": seen.collectives,
            "seconds": self._clock.seconds.get("phase", 0.0),
            "lifeless_seconds": self._clock.seconds.get("beat", 0.0),
            "process": _process_state(self._parent),
        }

    def _shared(self, report: dict[str, Any]) -> dict[int, dict[str, Any]]:
        """Tell other ranks' watchers, and what they have told; our own alone where the folder does not answer."""
        found = {self._rank: report}
        place = self._folder / f"rank-{self._rank:05d}.json"

        def exchange() -> None:
            self._folder.mkdir(parents=True, exist_ok=True)
            place.with_suffix(".tmp").write_text(json.dumps(report), encoding="utf-8")
            os.replace(place.with_suffix(".tmp"), place)
            for path in self._folder.glob("rank-*.json"):
                other = json.loads(path.read_text(encoding="utf-8"))
                found.setdefault(other["rank"], other)

        def try_it() -> None:
            with contextlib.suppress(OSError, ValueError):
                exchange()

        thread = threading.Thread(target=try_it, daemon=True)
        thread.start()
        thread.join(_FOLDER_SECONDS)
        return dict(found)

    def _say(self, line: str) -> None:
        os.write(2, f"watch: {line}\n".encode())


def _process_state(pid: int) -> str:
    """The letter of /proc: T stopped, D waiting for a disk, R running, S sleeping; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "?"


def main() -> None:
    handle, rank, world_size, folder = sys.argv[1:]
    # Launchers end a rank's whole tree politely first: we stay until the rank itself has ended.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    with mmap.mmap(int(handle), LAYOUT.size) as memory:
        Watcher(memory, int(rank), int(world_size), Path(folder)).run()


if __name__ == "__main__":
    main()
