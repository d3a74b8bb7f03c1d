"""What a run does when something fails; the text under a field is its documentation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from mtllm_ds.config.section import Section, unread

Seconds = Annotated[float, Field(gt=0, le=1e7)]


class FailureSettings(Section):
    skip_unsound_steps: int = Field(default=0, ge=0)
    """Steps of the whole run whose update may be left out because a gradient was not finite, each told; one more stops the run."""
    on_loss_spike: Literal["ignore", "log", "stop", "roll_back"] = "log"
    """`roll_back` takes up the newest checkpoint again and goes on behind the data that led to the spike."""
    spike_window: int = Field(default=100, ge=10, le=10_000)
    """A step's loss is compared with those of so many steps before (of at least 20, or as many as the window holds)."""
    spike_factor: float = Field(default=20.0, gt=1)
    """It is a spike if it lies so many standard deviations above their median (robust ones: 1.48 times the median distance)."""
    max_roll_backs: int = Field(default=3, gt=0)
    """Of the whole run; the spike after that stops it."""
    start_seconds: Seconds | None = 3600.0
    """Longest that a run may take from loading its models to the end of its first step. Beyond any of these bounds the process is
    ended, and a line names the rank and where it hangs; null waits for ever."""
    step_seconds: Seconds | None = 900.0
    """Longest for each part of a later step: waiting for data, rollouts, forwards and backwards, the log."""
    validation_seconds: Seconds | None = 7200.0
    save_seconds: Seconds | None = 3600.0


def mistakes_of_failures(failures: FailureSettings) -> Iterator[str]:
    """Settings that nothing reads."""
    why = f"with failures.on_loss_spike={failures.on_loss_spike}"
    if failures.on_loss_spike == "ignore":
        yield from unread(failures, "failures", ("spike_window", "spike_factor"), why)
    if failures.on_loss_spike != "roll_back":
        yield from unread(failures, "failures", ("max_roll_backs",), why)
