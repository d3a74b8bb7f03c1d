"""`mtllm-ds train --profile steps=10:13`: a trace of some steps, what lay in a GPU's memory, and where the time went."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from mtllm_ds import atomic
from mtllm_ds.errors import UserError
from mtllm_ds.observe.profile_parts import StepSeconds, seconds_by_part
from mtllm_ds.observe.profile_picture import draw_parts

PROFILES = "profile"
"""Folder below the run's"""
_FORM = re.compile(r"steps=(?P<first>\d+):(?P<end>\d+)(,ranks=(?P<ranks>0|all))?")
_MEMORY_EVENTS = 200_000
"""Allocations that a snapshot of a GPU's memory goes back at most"""


@dataclass(frozen=True)
class ProfileRequest:
    """Steps `first` to `end` - 1, counted from 1 as rows of the log count them."""

    first: int
    end: int
    all_ranks: bool = False

    @classmethod
    def parse(cls, text: str) -> ProfileRequest:
        """Of `steps=FIRST:END` or `steps=FIRST:END,ranks=all`.

        Raises:
            UserError: it is nothing of the kind.
        """
        found = _FORM.fullmatch(text)
        if found is None or not 0 < int(found["first"]) < int(found["end"]):
            raise UserError(
                f"--profile={text}: expected steps=FIRST:END with 0 < FIRST < END, such as steps=10:13 for steps 10, 11 and 12; "
                "write steps=10:13,ranks=all to see all ranks"
            )
        return cls(int(found["first"]), int(found["end"]), found["ranks"] == "all")

    def __str__(self) -> str:
        return f"steps={self.first}:{self.end}{',ranks=all' if self.all_ranks else ''}"

    def check(self, start_step: int, max_steps: int) -> None:
        """Refuse steps that the run does not take.

        Raises:
            UserError: some lie behind the last one, or are done already.
        """
        if self.end - 1 > max_steps:
            raise UserError(
                f"--profile={self}: run.max_steps={max_steps} ends before step {self.end - 1}; profile earlier steps"
            )
        if self.first <= start_step:
            raise UserError(
                f"--profile={self}: the run goes on after step {start_step}; profile steps from {start_step + 1} on"
            )


class StepProfiler:
    """Profiles the steps of a request on one rank; without a request, or on a rank that is not asked for, it does nothing."""

    def __init__(
        self,
        request: ProfileRequest | None,
        run_folder: Path,
        rank: int,
        device: torch.device,
        tell: Callable[[str], None],
    ) -> None:
        self._request = request if request is not None and (request.all_ranks or rank == 0) else None
        self._rank, self._device, self._tell = rank, device, tell
        if self._request is not None:
            self.folder = run_folder / PROFILES / f"steps_{self._request.first}_to_{self._request.end - 1}"
        self._running: profile | None = None

    def begin(self, step: int) -> None:
        """Before a step; from the first one on all is noted."""
        if self._request is None or self._running is not None or step != self._request.first:
            return
        activities = [ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
            torch.cuda.memory._record_memory_history(max_entries=_MEMORY_EVENTS)
            torch.cuda.synchronize(self._device)
        self._running = profile(activities=activities, acc_events=True)
        self._running.start()

    def is_over(self, step: int) -> bool:
        """Whether that was the last step to profile: then `write`."""
        return self._running is not None and self._request is not None and step == self._request.end - 1

    def write(self) -> None:
        """Stop, and write what was seen below the run's folder: `trace-rank0.json.gz` (chrome://tracing, ui.perfetto.dev), on a GPU
        `memory-rank0.pickle` (pytorch.org/memory_viz), `seconds-rank0.json` and `seconds-rank0.png`.

        What cannot be written is told, and ends no training: this rank alone writes, and others do not wait.
        """
        try:
            seconds = self._written()
        except OSError as error:
            self._tell(f"warning: {self.folder}: the profile cannot be written ({error}); training goes on")
            return
        parts = sorted(seconds.parts.items(), key=lambda item: -item[1])
        shares = ", ".join(f"{name} {spent / seconds.step:.0%}" for name, spent in parts)
        self._tell(
            f"profile of {seconds.num_steps} steps in {self.folder}: {1e3 * seconds.step:,.0f} ms per step, {shares}"
        )

    def _written(self) -> StepSeconds:
        running, name = self._running, f"rank{self._rank}"
        assert running is not None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        running.stop()
        self._running, self._request = None, None
        self.folder.mkdir(parents=True, exist_ok=True)
        trace = self.folder / f"trace-{name}.json.gz"
        running.export_chrome_trace(str(trace))
        if self._device.type == "cuda":
            torch.cuda.memory._dump_snapshot(str(self.folder / f"memory-{name}.pickle"))
            torch.cuda.memory._record_memory_history(enabled=None)
        seconds = seconds_by_part(trace)
        atomic.write_json(self.folder / f"seconds-{name}.json", asdict(seconds))
        atomic.write_bytes(self.folder / f"seconds-{name}.png", draw_parts(seconds, f"{self.folder.name}, {name}"))
        return seconds

    def close(self) -> None:
        """The run is over, perhaps in the middle of what was to be profiled."""
        if self._running is not None:
            self._running.stop()
            self._running = None
            if self._device.type == "cuda":
                torch.cuda.memory._record_memory_history(enabled=None)
