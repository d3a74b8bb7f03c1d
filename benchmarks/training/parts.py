"""Where the seconds of our step go: by part, by kind of operator, and how far its products are from what the machine can do.

python -m benchmarks.training.parts cpu FOLDER
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.training.ranks import opened, settings_of
from benchmarks.training.sizes import Size, size_named
from benchmarks.training.turns import Group, Turns
from mtllm_ds import atomic
from mtllm_ds.observe.profile_parts import seconds_by_part
from mtllm_ds.step_parts import RANGE
from mtllm_ds.training.loop import Trainer

FIRST_STEP, NUM_STEPS = 4, 6
PARTS, TRACE = "parts.json", "trace.json.gz"
_KINDS = {
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "attention": ("aten::_scaled_dot_product", "aten::_flash_attention", "aten::_efficient_attention"),
    "copies": ("aten::copy_", "aten::_to_copy", "aten::cat", "aten::clone", "aten::_foreach_copy_"),
    "collectives": ("c10d::", "gloo:", "nccl:", "record_param_comms"),
    "other operators": ("aten::", "torch::"),
}
"""Of operators by what their names begin with; the first that fits"""
OUTSIDE = "outside of operators"
"""Python, autograd's own work, and hooks"""


def measure_parts(size: Size, folder: Path) -> None:
    """Write `parts.json` of our step on all ranks, told by the first one."""
    group = Group(profiled, folder, num_ranks=size.num_ranks, num_threads=size.num_threads)
    try:
        group.wait_until_ready()
        group.take()
    finally:
        group.close()


def profiled(turns: Turns, folder: Path) -> None:
    """On a rank: our loop, some steps of it under torch's profiler."""
    settings = settings_of(folder, "profiled", (f"run.max_steps={FIRST_STEP + NUM_STEPS + 1}",))
    with opened(settings) as trainer:
        device = trainer.cluster.device
        profiler = torch.profiler.profile(with_flops=True)
        end = partial(_tell, profiler, folder, trainer, product_rate(settings.training.precision, device))
        watch: Any = _Watched(trainer.watch, {FIRST_STEP: profiler.start, FIRST_STEP + NUM_STEPS: end})
        trainer.watch = watch
        turns.next()
        trainer.run()
        turns.next()


def product_rate(precision: str, device: torch.device, seconds: float = 1.0) -> float:
    """Floating-point operations a second of large matrix products, as this rank makes them beside the others."""
    width = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
    best, until = 0.0, time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        torch.mm(one, other)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * width**3 / (time.perf_counter() - began))
    return best


def by_kind(averages: Any) -> dict[str, float]:
    """Seconds by kind of operator, each operator without those that it calls: of the device, or without one of the host."""
    found: Counter[str] = Counter()
    for event in averages:
        microseconds = event.self_device_time_total if torch.cuda.is_available() else event.self_cpu_time_total
        found[_kind_of(event.key)] += microseconds / 1e6
    return dict(found)


def _kind_of(name: str) -> str:
    for kind, beginnings in _KINDS.items():
        if name.startswith(beginnings):
            return kind
    return OUTSIDE


class _Watched:
    """A trainer's watch that acts when the loop is through with certain steps."""

    def __init__(self, watch: Any, actions: Mapping[int, Callable[[], None]]) -> None:
        self._watch, self._actions = watch, actions

    def __getattr__(self, name: str) -> Any:
        return getattr(self._watch, name)

    def enter(self, phase: Any, step: int) -> None:
        if phase == "log" and step in self._actions:
            self._actions[step]()
        self._watch.enter(phase, step)


def _tell(profiler: torch.profiler.profile, folder: Path, trainer: Trainer, rate: float) -> None:
    profiler.stop()
    if not trainer.cluster.is_main:
        return
    profiler.export_chrome_trace(str(folder / TRACE))
    averages = [event for event in profiler.key_averages() if not event.key.startswith(RANGE)]
    seconds = seconds_by_part(folder / TRACE)
    kinds = {kind: of_all / NUM_STEPS for kind, of_all in by_kind(averages).items()}
    kinds[OUTSIDE] = max(0.0, seconds.step - sum(own for kind, own in kinds.items() if kind != OUTSIDE))
    flops = sum(event.flops for event in averages if _kind_of(event.key) == "products") / NUM_STEPS
    atomic.write_json(
        folder / PARTS,
        {"step": seconds.step, "parts": seconds.parts, "kinds": kinds, "product_flops": flops, "product_rate": rate},
    )


if __name__ == "__main__":
    measure_parts(size_named(sys.argv[1]), Path(sys.argv[2]))
