"""Tokens a second between two rows of the log."""

from __future__ import annotations

import time


class Throughput:
    """Counts what was done since the last reading; time spent in `pause` (validation, saving) does not count."""

    def __init__(self) -> None:
        self._tokens = 0
        self._since = time.perf_counter()
        self._paused = 0.0

    def add(self, tokens: int) -> None:
        self._tokens += tokens

    def pause(self, seconds: float) -> None:
        """Leave `seconds` out of the current reading."""
        self._paused += seconds

    def read(self) -> tuple[int, float]:
        """Tokens and seconds since the last reading, which starts anew."""
        now = time.perf_counter()
        tokens, seconds = self._tokens, max(now - self._since - self._paused, 1e-9)
        self._tokens, self._since, self._paused = 0, now, 0.0
        return tokens, seconds
