"""A polite end: SIGTERM, SIGUSR1 and SIGINT only set a flag; the loop agrees on it, saves, and leaves."""

from __future__ import annotations

import signal
from types import FrameType

EXIT_PREEMPTED = 85
"""Stopped in good order, start me again with --resume. No shell, launcher or scheduler gives it a meaning of its own."""


_CAUGHT = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def ignore_requests() -> None:
    """From here on the process only leaves. As soon as one rank has left with a status, SLURM sends SIGTERM to the others and tells
    the highest status of all: theirs would then be 143."""
    for number in _CAUGHT:
        signal.signal(number, signal.SIG_IGN)


class Preemption:
    """Catches the signals that schedulers and people send; a second SIGINT ends the process at once."""

    def __init__(self) -> None:
        self.requested = False
        self._previous = {number: signal.signal(number, self._handle) for number in _CAUGHT}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def close(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
