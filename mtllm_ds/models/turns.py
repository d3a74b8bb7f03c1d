"""Turns between threads that use the same weights."""

from __future__ import annotations

import threading


class Turn:
    """One forward at a time, whichever thread asks: `encode_with_llm` turns the adapters off that `encode` reads through.

    A copy, or what another process unpickles, takes turns of its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Turn], tuple[()]]:
        return Turn, ()
