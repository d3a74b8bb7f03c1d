"""Cells under token budgets: one language's stream of epochs, cut into cells that are full and keep the epochs true.

A cell begins with the oldest sample that waits; then come, of the next `queue_size`, the longest that still fit. A sample of the
next epoch is only taken once none of its own epoch waits any more, be it that the same cell took the last. So after every cell no
sample came twice before all came once, and cells stay full where epochs are short.

The stream is filled *stretch* by stretch, each by itself: which cells lie at a position is known without what precedes it. The
price is the last cell of a stretch, which may be half empty.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np

from mtllm_ds.data.stream.epochs import EpochStream

STRETCH_QUEUES = 128
"""Length of a stretch in queues. Stretches half as long leave twice as many cells half empty."""

MAX_STRETCH_SAMPLES = 1 << 18
"""Longest stretch: it is filled as a whole, for each language, before its first cell is known, and kept."""

_Waiting = tuple[int, int, int]
"""Tokens on the LLM's side, on the encoder's, both negative so that the longest come first, and position."""


@dataclass(frozen=True)
class Budgets:
    """What a cell may hold, and how far ahead of the oldest sample it looks."""

    encoder_tokens: int
    llm_tokens: int
    queue_size: int


def fill_cells(
    encoder_lengths: np.ndarray, llm_lengths: np.ndarray, budgets: Budgets, first_epoch: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Deal samples to cells until none is left.

    Longest means on the LLM's side, then on the encoder's; of equals the oldest. As budgets only shrink, one pass over the samples
    in that order is the greedy choice.

    Args:
        encoder_lengths, llm_lengths: (n,) tokens of the samples, oldest first, none beyond its budget
        first_epoch: samples that are left of the epoch of the first sample
        epoch: samples of each later epoch

    Returns:
        (n,) positions of the samples, cell by cell, and (cells,) how many samples there are up to the end of each.
    """
    count = len(llm_lengths)
    samples = list(zip((-llm_lengths).tolist(), (-encoder_lengths).tolist(), range(count), strict=True))
    # Of an epoch, sorted: the longest first, of equals the oldest. Later epochs wait outside: where an epoch is shorter than the
    # queue, each cell would pass over all of them.
    waiting: list[_Waiting] = []
    is_taken = bytearray(count)
    order: list[int] = []
    ends: list[int] = []
    oldest = entered = 0
    epoch_end = first_epoch
    while oldest < count:
        reached = min(count, len(order) + budgets.queue_size)  # as many wait as the queue holds, whatever their epochs
        entered = _enter(waiting, samples, entered, min(reached, epoch_end))
        left = budgets.llm_tokens, budgets.encoder_tokens
        place = bisect_left(waiting, samples[oldest])
        while True:
            taken, left = _take(waiting, place, left)
            order += taken
            for position in taken:
                is_taken[position] = True
            while oldest < count and is_taken[oldest]:
                oldest += 1
            if oldest < epoch_end:
                break
            epoch_end += epoch  # that epoch is through: this cell may go on with the next
            entered = _enter(waiting, samples, entered, min(reached, epoch_end))
            if not waiting:
                break
            place = _first_that_fits(waiting, left)
        ends.append(len(order))
    return np.array(order), np.array(ends)


def _enter(waiting: list[_Waiting], samples: list[_Waiting], entered: int, end: int) -> int:
    """Samples up to `end` come to those that wait; returns how many have."""
    for position in range(entered, end):
        insort(waiting, samples[position])
    return max(entered, end)


def _take(waiting: list[_Waiting], first: int, left: tuple[int, int]) -> tuple[list[int], tuple[int, int]]:
    """Take the sample at `first` of those that wait, if it fits, then the longest that do; also what is left of the budgets."""
    llm_left, encoder_left = left
    taken = []
    place = first
    while place < len(waiting):
        minus_llm, minus_encoder, position = waiting[place]
        if llm_left + minus_llm >= 0 and encoder_left + minus_encoder >= 0:
            llm_left += minus_llm
            encoder_left += minus_encoder
            taken.append(position)
            del waiting[place]
            place = _first_that_fits(waiting, (llm_left, encoder_left), 0 if len(taken) == 1 else place)
        else:
            place += 1
    return taken, (llm_left, encoder_left)


def _first_that_fits(waiting: list[_Waiting], left: tuple[int, int], start: int = 0) -> int:
    """Where those begin that the LLM's budget has room for."""
    return bisect_left(waiting, (-left[0], -left[1], 0), start)


@dataclass(frozen=True)
class Cells:
    """Consecutive cells of a language's stream."""

    rows: list[np.ndarray]
    """By cell: rows of the data set"""
    starts: np.ndarray
    """(cells,) samples of the stream before each"""
    samples_before: int
    """Samples of the stream before the first of them, or before where it would stand"""


class CellStream:
    """One language's endless stream of cells, known at any position.

    Args:
        stretch: samples that are filled at a time; positions that are asked for go up, one stretch after the other
    """

    def __init__(
        self,
        samples: EpochStream,
        encoder_lengths: np.ndarray,
        llm_lengths: np.ndarray,
        budgets: Budgets,
        stretch: int,
    ) -> None:
        self._samples = samples
        self._encoder_lengths = encoder_lengths
        self._llm_lengths = llm_lengths
        self._budgets = budgets
        self._stretch = stretch
        self._filled: tuple[int, np.ndarray, np.ndarray] | None = None
        """The stretch last asked for: its number, and what `_fill` gives"""

    def cells(self, start: int, end: int) -> Cells:
        """The cells that begin at positions `start` to `end` - 1, counted in samples."""
        rows: list[np.ndarray] = []
        starts = [np.empty(0, np.int64)]
        number, inside = divmod(start, self._stretch)
        before = None if inside else start
        while before is None or number * self._stretch < end:
            stretch_rows, bounds = self._fill(number)
            first, last = np.searchsorted(bounds[:-1], [start, end])
            if before is None and first < len(bounds):
                before = int(bounds[first])
            base = number * self._stretch
            rows += [stretch_rows[bounds[i] - base : bounds[i + 1] - base] for i in range(first, last)]
            starts.append(bounds[first:last])
            number += 1
        return Cells(rows, np.concatenate(starts), before)

    def epochs(self, cells: Cells) -> np.ndarray:
        """(cells,) a number that never falls along the stream, and is shared only by cells of one and the same epoch."""
        sizes = np.array([len(rows) for rows in cells.rows], np.int64)
        length = self._samples.num_samples
        return cells.starts // length + (cells.starts + sizes - 1) // length

    def _fill(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a stretch, cell by cell, and positions of the stream at which its cells begin, its end as the last."""
        if self._filled is None or self._filled[0] != number:
            start = number * self._stretch
            rows = self._samples.rows_of_lane(start, self._stretch, 0, 1)
            epoch = self._samples.num_samples
            order, ends = fill_cells(
                self._encoder_lengths[rows].astype(np.int64),
                self._llm_lengths[rows].astype(np.int64),
                self._budgets,
                epoch - start % epoch,
                epoch,
            )
            self._filled = number, rows[order], start + np.concatenate([[0], ends])
        return self._filled[1:]
