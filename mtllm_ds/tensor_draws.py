"""The draws of `draws.py` on tensors, on any device: the same bits wherever they are made."""

from __future__ import annotations

import torch

_BITS = 64


def _signed(value: int) -> int:
    """The int64 of the same bits."""
    return value - (1 << _BITS) if value >> (_BITS - 1) else value


_GOLDEN, _FIRST, _SECOND = (_signed(v) for v in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def seeds_of(*key: torch.Tensor | int, device: torch.device) -> torch.Tensor:
    """`draws.seed_of` elementwise: broadcast int64 tensors (or plain integers) -> int64 in [0, 2**63).

    A function of the integers alone: neither shapes nor devices matter. Nothing waits for the device.
    """
    state = torch.zeros((), dtype=torch.int64, device=device)
    for part in key:
        state = _splitmix64(state ^ part)
    return _shifted(state, 1)


def _splitmix64(state: torch.Tensor) -> torch.Tensor:
    state = state + _GOLDEN  # int64 wraps around, as uint64 does
    state = (state ^ _shifted(state, 30)) * _FIRST
    state = (state ^ _shifted(state, 27)) * _SECOND
    return state ^ _shifted(state, 31)


def _shifted(state: torch.Tensor, places: int) -> torch.Tensor:
    """To the right, zeros from the left."""
    return (state >> places) & ((1 << (_BITS - places)) - 1)
