"""Random draws that are pure functions of integers: the same on every machine and with every version of Python, numpy and torch.

SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) mixes the integers.
"""

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def seed_of(*key: int) -> int:
    """A seed in [0, 2**63) that depends on the integers of `key` and their order."""
    return _state_of(key) >> 1


def permutation(size: int, *key: int) -> np.ndarray:
    """(size,) int64: 0 .. size-1 in an order that depends on `key` alone."""
    state = _state_of(key)
    with np.errstate(over="ignore"):
        counters = np.uint64(state) + np.arange(1, size + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return np.argsort(_splitmix64(counters), kind="stable")


def uniform(*key: int) -> float:
    """A number in [0, 1) that depends on the integers of `key` and their order."""
    return (_state_of(key) >> 11) / (1 << 53)


def _state_of(key: tuple[int, ...]) -> int:
    state = 0
    for part in key:
        state = int(_splitmix64(np.array([(state ^ part) & _MASK], np.uint64))[0])
    return state


def _splitmix64(state: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        state = state + np.uint64(_GOLDEN)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))
