"""Silence of transformers where it says at length what we say in a line, or ask for on purpose."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


class _Silence:
    """The level of transformers' log is the process's: the first thread to come in lowers it, the last to leave gives it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_inside, self._before = 0, 0

    def enter(self) -> None:
        with self._lock:
            if not self._num_inside:
                self._before = logging.get_verbosity()
                logging.set_verbosity_error()
            self._num_inside += 1

    def leave(self) -> None:
        with self._lock:
            self._num_inside -= 1
            if not self._num_inside:
                logging.set_verbosity(self._before)


_SILENCE = _Silence()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Only errors are logged inside, and as long as another thread is."""
    _SILENCE.enter()
    try:
        yield
    finally:
        _SILENCE.leave()
