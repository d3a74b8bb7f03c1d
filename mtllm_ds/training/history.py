"""What has befallen a run so far and decides what it does next: kept in its checkpoints."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from mtllm_ds.config.failures import FailureSettings

_FEWEST = 20
"""Losses that a comparison needs, where the window holds as many."""
_DEVIATION = 1.4826
"""Standard deviation of a normal distribution by its median absolute deviation."""
_LEAST_SPREAD = 1e-3
"""Of the median: losses that hardly move make no spike of a hair."""


@dataclass
class History:
    """The same on all ranks."""

    skipped_steps: list[int] = field(default_factory=list)
    """Whose update was left out because a gradient was not finite."""
    recent_losses: list[float] = field(default_factory=list)
    """Of the newest steps, at most `failures.spike_window`; empty where spikes are ignored."""
    num_roll_backs: int = 0
    validation_due: bool = False
    """The run was asked to stop in the validation of its newest step: that comes first when it goes on."""

    def is_spike(self, loss: float, failures: FailureSettings) -> bool:
        """Whether a step's loss lies far above those of the steps before."""
        recent = self.recent_losses
        if len(recent) < min(_FEWEST, failures.spike_window):
            return False
        median = statistics.median(recent)
        spread = _DEVIATION * statistics.median(abs(value - median) for value in recent)
        return loss > median + failures.spike_factor * max(spread, _LEAST_SPREAD * abs(median))

    def note_loss(self, loss: float, failures: FailureSettings) -> None:
        """Remember a step's loss."""
        self.recent_losses = [*self.recent_losses, loss][-failures.spike_window :]
