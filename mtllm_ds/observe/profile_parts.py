"""Where the time of profiled steps goes, part by part, read from a trace of torch's profiler."""

from __future__ import annotations

import gzip
import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mtllm_ds.step_parts import RANGE

STEP, REST = RANGE + "step", "rest"
_DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
_COLLECTIVE_KERNEL = "nccl"
_MICROSECOND = 1e-6

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class StepSeconds:
    """Of one rank, per step, the mean of the profiled ones; names of parts are those of `step_parts`, and `rest`."""

    num_steps: int
    step: float
    """From the beginning of a step to its end, as the loop's thread has it"""
    host: dict[str, float]
    """Of the loop's thread, which on the CPU does the work itself: they add up to `step`. On a GPU it mostly hands work over, or
    waits"""
    device: dict[str, float]
    """Of the GPU, busy with work that a part has handed over (what runs on two streams at once counts twice); empty without one"""
    exposed_communication: float | None
    """Seconds in which the GPU runs collectives and nothing else; None without a GPU"""
    idle: float | None
    """Seconds of a step in which the GPU runs nothing; None without one"""

    @property
    def parts(self) -> dict[str, float]:
        """Who did the work: the GPU, or without one the loop's thread."""
        return self.device or self.host


def seconds_by_part(trace: Path) -> StepSeconds:
    """Of a trace (`.json` or `.json.gz`, as `torch.profiler.profile.export_chrome_trace` writes it) of whole steps.

    Raises:
        ValueError: it holds no step of ours.
    """
    with gzip.open(trace, "rt", encoding="utf-8") if trace.suffix == ".gz" else trace.open(encoding="utf-8") as stream:
        events = [event for event in json.load(stream)["traceEvents"] if event.get("ph") == "X"]
    ranges = _ranges_of(events)
    steps = [one for one in ranges if one.name == STEP]
    if not steps:
        raise ValueError(f"{trace}: no range '{STEP}' in it")
    within = _union((one.start, one.end) for one in steps)
    ranges = [
        one for one in ranges if _overlap([(one.start, one.end)], within)
    ]  # what is validated or saved is no step
    threads = {thread: _Thread(own) for thread, own in _by_thread(ranges).items()}
    loop = threads[steps[0].thread]
    device, intervals = _device_seconds(events, threads, loop)
    scale = _MICROSECOND / len(steps)
    collectives, others = intervals[True], intervals[False]
    has_device = bool(collectives or others)
    busy = _length(_overlap(_union([*collectives, *others]), within))
    total = sum(one.end - one.start for one in steps)
    return StepSeconds(
        num_steps=len(steps),
        step=total * scale,
        host={name: value * scale for name, value in loop.own_time().items()},
        device={name: value * scale for name, value in device.items()},
        exposed_communication=_exposed(collectives, others) * scale if has_device else None,
        idle=(total - busy) * scale if has_device else None,
    )


class _Range(NamedTuple):
    start: float
    end: float
    name: str
    thread: Any


class _Thread:
    """The ranges of one thread, which lie within each other or apart: at every moment one of them is the innermost."""

    def __init__(self, ranges: Sequence[_Range]) -> None:
        self._starts: list[float] = []
        self._names: list[str | None] = []
        """From each start on, the innermost"""
        around: list[_Range] = []
        for one in sorted(ranges, key=lambda one: (one.start, -one.end)):
            self._close(around, one.start)
            around.append(one)
            self._note(one.start, one.name)
        self._close(around, float("inf"))

    def _close(self, around: list[_Range], until: float) -> None:
        while around and around[-1].end <= until:
            ended = around.pop()
            self._note(ended.end, around[-1].name if around else None)

    def _note(self, start: float, name: str | None) -> None:
        self._starts.append(start)
        self._names.append(name)

    def innermost(self, moment: float) -> str | None:
        """The name of the range at a moment; None outside of all."""
        place = bisect_right(self._starts, moment) - 1
        return self._names[place] if place >= 0 else None

    def own_time(self) -> dict[str, float]:
        """By part, what no inner range takes."""
        found: dict[str, float] = defaultdict(float)
        for start, end, name in zip(self._starts, self._starts[1:], self._names, strict=False):
            if name is not None:
                found[_part_of(name)] += end - start
        return found


def _ranges_of(events: Iterable[dict[str, Any]]) -> list[_Range]:
    return [
        _Range(event["ts"], event["ts"] + event["dur"], event["name"], (event["pid"], event["tid"]))
        for event in events
        if event.get("cat") == "user_annotation" and event["name"].startswith(RANGE)
    ]


def _by_thread(ranges: Iterable[_Range]) -> dict[Any, list[_Range]]:
    found = defaultdict(list)
    for one in ranges:
        found[one.thread].append(one)
    return dict(found)


def _device_seconds(
    events: Sequence[dict[str, Any]], threads: dict[Any, _Thread], loop: _Thread
) -> tuple[dict[str, float], dict[bool, list[Interval]]]:
    """By part the time of what it handed to the device; and when that ran, of collectives (True) and of all else."""
    launches = {
        event["args"]["correlation"]: event
        for event in events
        if event.get("cat") in ("cuda_runtime", "cuda_driver") and "correlation" in event.get("args", {})
    }
    found: dict[str, float] = defaultdict(float)
    intervals: dict[bool, list[Interval]] = {True: [], False: []}
    for event in events:
        if event.get("cat") not in _DEVICE_WORK:
            continue
        is_collective = event["name"].lower().startswith(_COLLECTIVE_KERNEL)
        launch = launches.get(event.get("args", {}).get("correlation"))
        name = None if launch is None else _range_at(launch, threads, loop)
        if name is not None:  # not what validation or saving handed over between two steps
            intervals[is_collective].append((event["ts"], event["ts"] + event["dur"]))
            found["collectives" if is_collective else _part_of(name)] += event["dur"]
    return found, intervals


def _range_at(launch: dict[str, Any], threads: dict[Any, _Thread], loop: _Thread) -> str | None:
    """Of the launching thread; autograd's own has no ranges, and works while the loop's waits for it."""
    own = threads.get((launch["pid"], launch["tid"]))
    return (own and own.innermost(launch["ts"])) or loop.innermost(launch["ts"])


def _part_of(name: str) -> str:
    return REST if name == STEP else name.removeprefix(RANGE)


def _exposed(collectives: Iterable[Interval], others: Iterable[Interval]) -> float:
    busy = _union(collectives)
    return _length(busy) - _length(_overlap(busy, _union(others)))


def _union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same moments, in order and apart."""
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def _overlap(one: Sequence[Interval], other: Sequence[Interval]) -> list[Interval]:
    """Moments of both, each in order and apart."""
    found, here, there = [], 0, 0
    while here < len(one) and there < len(other):
        start, end = max(one[here][0], other[there][0]), min(one[here][1], other[there][1])
        if start < end:
            found.append((start, end))
        if one[here][1] < other[there][1]:
            here += 1
        else:
            there += 1
    return found


def _length(intervals: Iterable[Interval]) -> float:
    return sum(end - start for start, end in intervals)
