"""Each language as an endless stream of its samples, epoch after epoch, dealt to the lanes that read it side by side.

An epoch holds every sample of the language once: its blocks in an order of its own, the rows of each permuted. Lanes go through the
stream at one pace: of m lanes that read a language at the same time, lane j takes the positions P + j, P + j + m, P + j + 2m, ...
Whatever they have taken together is then always a beginning of the stream, so that no sample comes twice before all came once. So
that a lane still reads whole stretches of a block, the samples that fall to the m lanes within an epoch are dealt in m stretches.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np

from mtllm_ds.draws import permutation

EPOCH, ROWS = 2, 4
"""Purposes of a permutation, so that no two share a key (others stand in mixing.py)"""


@dataclass(frozen=True)
class LanguageSamples:
    """What an epoch of a language is made of."""

    blocks: np.ndarray
    """(n,) blocks in the data set's order"""
    sizes: np.ndarray
    """(n,) samples that count of each block: all, but of a sub-sample's last"""

    @property
    def num_samples(self) -> int:
        return int(self.sizes.sum())


class EpochStream:
    """One language's stream: position -> row of the data set.

    Args:
        language: its position in the data set's languages
        first_row: (blocks + 1,) number of the first row of each block of the data set
        cached_bytes: memory for orders of epochs and of rows that may be asked for again; the last two are always kept
    """

    def __init__(
        self, samples: LanguageSamples, language: int, first_row: np.ndarray, seed: int, cached_bytes: int = 1 << 20
    ) -> None:
        self.num_samples = samples.num_samples
        self._samples = samples
        self._language = language
        self._first_row = first_row
        self._seed = seed
        self._orders = _Cache(cached_bytes // 2)
        self._block_rows = _Cache(cached_bytes // 2)

    def rows_of_lane(self, start: int, count: int, lane: int, num_lanes: int) -> np.ndarray:
        """(count,) rows that one of `num_lanes` lanes takes, of the `count * num_lanes` positions from `start` on."""
        positions = start + lane + num_lanes * np.arange(count)
        parts = []
        for epoch in np.unique(positions // self.num_samples).tolist():
            begin = max(start, epoch * self.num_samples)
            end = min(start + count * num_lanes, (epoch + 1) * self.num_samples)
            upto = np.arange(lane + 1)
            shares = _num_of_lane(end - start, upto, num_lanes) - _num_of_lane(begin - start, upto, num_lanes)
            stretch = begin - epoch * self.num_samples + int(shares[:-1].sum())
            parts.append(self._rows(epoch, stretch, int(shares[-1])))
        return np.concatenate(parts)

    def _rows(self, epoch: int, start: int, count: int) -> np.ndarray:
        """`count` rows of an epoch's order from `start` on."""
        blocks, ends = self._order(epoch)
        first, last = np.searchsorted(ends, [start, start + count - 1], side="right")
        rows = np.concatenate([self._rows_of_block(epoch, int(blocks[i])) for i in range(first, last + 1)])
        skip = start - (int(ends[first - 1]) if first else 0)
        return rows[skip : skip + count]

    def _order(self, epoch: int) -> np.ndarray:
        """(2, blocks) places of the blocks in the order of an epoch, and the samples up to the end of each."""

        def make() -> np.ndarray:
            order = permutation(len(self._samples.blocks), self._seed, EPOCH, self._language, epoch)
            return np.stack([order, np.cumsum(self._samples.sizes[order])])

        return self._orders.get(epoch, make)

    def _rows_of_block(self, epoch: int, place: int) -> np.ndarray:
        def make() -> np.ndarray:
            block, size = int(self._samples.blocks[place]), int(self._samples.sizes[place])
            return int(self._first_row[block]) + permutation(size, self._seed, ROWS, block, epoch)

        return self._block_rows.get((epoch, place), make)


class _Cache:
    """Arrays by key, those last asked for, up to some bytes."""

    _ENTRY_BYTES = 512
    """Of an entry beside its numbers: key, header, place in the dictionary. A short epoch is mostly that"""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of that key, made where it is not kept."""
        if key not in self._arrays:
            self._arrays[key] = make()
            self._bytes += self._ENTRY_BYTES + self._arrays[key].nbytes
            while len(self._arrays) > 2 and self._bytes > self._max_bytes:
                _, dropped = self._arrays.popitem(last=False)
                self._bytes -= self._ENTRY_BYTES + dropped.nbytes
        self._arrays.move_to_end(key)
        return self._arrays[key]


def _num_of_lane(num_positions: int, lane: np.ndarray, num_lanes: int) -> np.ndarray:
    """How many of the first positions are each lane's: those congruent to it."""
    return np.maximum(0, -((lane - num_positions) // num_lanes))
