"""A polite end: SIGTERM and SIGINT only set a flag; the loop agrees on it, saves, and leaves."""

from __future__ import annotations

import signal
from types import FrameType

# EX_TEMPFAIL of sysexits.h: "stopped in good order, start me again with --resume".
EXIT_PREEMPTED = 75


class Preemption:
    """Catches the signals that schedulers and people send; a second SIGINT ends the process at once."""

    def __init__(self) -> None:
        self.requested = False
        self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def close(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
