"""What steps cost: their speed, products, traffic, waiting and memory, between two rows of the log.

Steps only count; ranks are summed up, and the device is waited for, where a row is written (docs/measuring.md defines each figure).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from mtllm_ds.cluster.collectives import COUNTS, Kind
from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.config.schema import Settings
from mtllm_ds.observe.flops import StepFlops
from mtllm_ds.observe.gpus import Peak, peak_of
from mtllm_ds.observe.memory import take_peaks
from mtllm_ds.step_parts import in_part

Pause = Literal["validation", "saving", "profiling"]
_TOTALS = ("tokens", "documents", "model_flops", "hardware_flops")
_OF_RANKS = ("data_wait_seconds", "peak_memory_bytes", "peak_reserved_bytes")
_SUMS, _BY_RANK = "totals since the last row", "of each rank since the last row"
_TERA = 1e12


class Meter:
    """Of one rank; `totals` of all ranks are summed up before `figures` reads them."""

    def __init__(self, cluster: Cluster, peak: Peak | None) -> None:
        self._cluster, self._peak = cluster, peak
        self.flops = StepFlops()
        self._told: set[str] = set()
        self._begin()

    @contextmanager
    def step(self) -> Iterator[None]:
        """A step, from its data to its update."""
        before = COUNTS.copy()
        with in_part("step"):
            yield
        self._num_steps += 1
        made = COUNTS.since(before)
        self._sent.update(made.sent_bytes)
        self._calls.update(made.calls)

    def took(self, tokens: int, documents: int) -> None:
        """A micro-batch was trained on."""
        self._counts.update(tokens=tokens, documents=documents)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """For data."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    @contextmanager
    def pause(self, what: Pause) -> Iterator[None]:
        """Time that is none of the steps'."""
        began = time.perf_counter()
        yield
        self._paused[what] = self._paused.get(what, 0.0) + time.perf_counter() - began

    def totals(self) -> dict[str, torch.Tensor]:
        """Float64 sums, to be added up over ranks; of what does not add up, each rank has a row of its own."""
        flops = self.flops.take()
        own = (self._counts["tokens"], self._counts["documents"], flops.model, flops.hardware)
        of_ranks = torch.zeros(self._cluster.world_size, len(_OF_RANKS), dtype=torch.float64)
        of_ranks[self._cluster.rank] = torch.tensor([self._waited, *take_peaks(self._cluster.device)]).double()
        return {_SUMS: torch.tensor(own, dtype=torch.float64), _BY_RANK: of_ranks}

    def figures(self, totals: dict[str, torch.Tensor]) -> dict[str, float]:
        """Figures of a row, from totals over all ranks, which are taken out; counting begins anew."""
        total = dict(zip(_TOTALS, totals.pop(_SUMS).tolist(), strict=True))
        most = dict(zip(_OF_RANKS, totals.pop(_BY_RANK).amax(0).tolist(), strict=True))
        seconds = max(time.perf_counter() - self._since - sum(self._paused.values()), 1e-9)
        rank_seconds, steps = seconds * self._cluster.world_size, max(1, self._num_steps)
        found = {f"{name}_per_second": total[name] / seconds for name in ("tokens", "documents")}
        for name, utilisation in (("model", "mfu"), ("hardware", "hfu")):
            rate = total[f"{name}_flops"] / rank_seconds
            found[f"{name}_tflops_per_second_per_rank"] = rate / _TERA
            if self._peak is not None:
                found[utilisation] = rate / self._peak.flops
        if self._peak is not None:
            found["peak_tflops_per_rank"] = self._peak.flops / _TERA
        found["data_wait_seconds"] = most["data_wait_seconds"] / steps
        found["peak_memory_bytes"] = most["peak_memory_bytes"]
        if self._cluster.device.type == "cuda":
            found["peak_reserved_bytes"] = most["peak_reserved_bytes"]
        for kind, number in sorted(self._calls.items()):
            found[f"sent_bytes/{kind}"] = self._sent[kind] / steps
            found[f"collectives/{kind}"] = number / steps
        found |= {f"{what}_seconds": spent for what, spent in self._paused.items()}
        self._begin()
        return found

    def missing(self) -> Iterator[str]:
        """What the FLOPs lack, each line once."""
        for kind in self.flops.unseen:
            if kind not in self._told:
                self._told.add(kind)
                yield f"the FLOPs of {kind} are told without its attention, which cannot be seen: they and MFU are too low"

    def _begin(self) -> None:
        self._since = time.perf_counter()
        self._num_steps, self._waited = 0, 0.0
        self._counts: Counter[str] = Counter()
        self._sent: Counter[Kind] = Counter()
        self._calls: Counter[Kind] = Counter()
        self._paused: dict[Pause, float] = {}


def peak_for(settings: Settings, device: torch.device) -> Peak | None:
    """What MFU is measured against: what the settings say, else the datasheet of the GPU; None without either."""
    training = settings.training
    if training.peak_tflops is not None:
        return Peak(training.peak_tflops * _TERA, "training.peak_tflops")
    if device.type != "cuda" or (training.precision == "fp32" and torch.backends.cuda.matmul.allow_tf32):
        return None
    return peak_of(torch.cuda.get_device_name(device), training.precision)
