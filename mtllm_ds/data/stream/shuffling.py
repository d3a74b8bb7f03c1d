"""Permutations that are pure functions of integers: the same on every machine, with every version of numpy."""

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def permutation(size: int, *key: int) -> np.ndarray:
    """(size,) int64: 0 .. size-1 in an order that depends on `key` alone; sorts SplitMix64 outputs (Steele et al., 2014)."""
    state = 0
    for part in key:
        state = int(_splitmix64(np.array([(state ^ part) & _MASK], np.uint64))[0])
    with np.errstate(over="ignore"):
        counters = np.uint64(state) + np.arange(1, size + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return np.argsort(_splitmix64(counters), kind="stable")


def _splitmix64(state: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        state = state + np.uint64(_GOLDEN)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))
