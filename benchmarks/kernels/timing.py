"""Interleaved timing: in every round each variant runs once, so that what disturbs the machine disturbs all alike."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from mtllm_kernels.common.scratch import release_scratch

from benchmarks.kernels.live_bytes import LiveBytes


@dataclass(frozen=True)
class Seconds:
    """Quantiles of the rounds, and the median of the processor time they took (CPU only; all threads)."""

    median: float
    low: float  # 20%
    high: float  # 80%
    processor: float


def interleaved(
    functions: dict[str, Callable[[], object]], rounds: int, device: str, warmup: int = 2
) -> dict[str, Seconds]:
    """Seconds of each function over the rounds."""
    once = _once_on_gpu if device == "cuda" else _once
    for _ in range(warmup):
        for function in functions.values():
            function()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    names = list(functions)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:  # nobody always follows the same one
            times[name].append(once(functions[name]))
    return {name: _quantiles(values) for name, values in times.items()}


def _quantiles(values: list[tuple[float, float]]) -> Seconds:
    ordered = sorted(seconds for seconds, _ in values)
    last = len(ordered) - 1
    processor = statistics.median(busy for _, busy in values)
    return Seconds(statistics.median(ordered), ordered[round(0.2 * last)], ordered[round(0.8 * last)], processor)


def _once(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the wall and of the processors; others on the machine lengthen the first, hardly the second."""
    start, busy = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - busy


def _once_on_gpu(function: Callable[[], object]) -> tuple[float, float]:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000, 0.0


def memory(function: Callable[[], object], device: str) -> dict[str, float]:
    """Bytes beyond what existed before: the peak, and on the CPU all that was allocated."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return {"peak_bytes": torch.cuda.max_memory_allocated() - before}
    release_scratch()  # what is kept between calls is counted as well
    with LiveBytes() as counted:
        function()
    return {"peak_bytes": counted.peak, "allocated_bytes": counted.allocated}
