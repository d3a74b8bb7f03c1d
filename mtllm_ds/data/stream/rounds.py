"""A round of the order: some draws for each lane, dealt out as cells.

Cells are numbered through the run: cell n is that of step n // L on lane n % L, for L lanes. A round holds the cells from
`first_cell` to `end` - 1. So that a rank reads whole stretches of blocks, what lies side by side in the data set goes to one lane,
step after step.

With cells of a fixed count each lane emits one draw of its own per round. Under token budgets a draw of long samples makes more
cells than one of short samples: the cells of a round's draws are dealt out so that all lanes get equally many.
"""

from typing import Protocol

import numpy as np

from mtllm_ds.data.stream.order import Order


class Round(Protocol):
    """What a schedule asks of a round."""

    number: int
    first_cell: int
    end: int
    """Number of the first cell that belongs to it no more"""

    def cell(self, number: int) -> np.ndarray:
        """Rows of one of its cells."""

    def samples_before(self, number: int) -> np.ndarray:
        """(sources,) samples of all cells of the run before this one, with which a step begins."""


class FixedRound:
    """Cells of a fixed count: lane l goes through draw l of the round."""

    def __init__(self, order: Order, number: int) -> None:
        lanes = order.settings.lanes
        self.number = number
        self.first_cell = number * cells_of_fixed_round(order)
        self.end = self.first_cell + cells_of_fixed_round(order)
        self._order = order
        self._sources = order.draws.sources(number * lanes, (number + 1) * lanes)
        self._drawn = order.draws.drawn_before(number * lanes)
        self._rows: dict[int, np.ndarray] = {}

    def cell(self, number: int) -> np.ndarray:
        step, lane = divmod(number - self.first_cell, self._order.settings.lanes)
        if lane not in self._rows:
            self._rows[lane] = self.rows_of_lane(lane)
        count = self._order.settings.num_samples_per_cell
        return self._rows[lane][step * count : (step + 1) * count]

    def rows_of_lane(self, lane: int) -> np.ndarray:
        """(draw_samples,) rows of a lane's draw in the order in which they are emitted."""
        source = int(self._sources[lane])
        readers = np.flatnonzero(self._sources == source)
        place, size = int(np.searchsorted(readers, lane)), self._order.draw_samples
        return self._order.streams[source].rows_of_lane(int(self._drawn[source]) * size, size, place, len(readers))

    def samples_before(self, number: int) -> np.ndarray:
        settings = self._order.settings
        taken = (number - self.first_cell) // settings.lanes * settings.num_samples_per_cell
        return self._drawn * self._order.draw_samples + taken * np.bincount(self._sources, minlength=len(self._drawn))


class PackedRound:
    """Cells under token budgets. Of each source they are those that begin within its draws of the round.

    A source's cells lie side by side, on one lane after the other: in every step of the round it has its part, within two cells.
    """

    def __init__(self, order: Order, number: int, first_cell: int) -> None:
        size, count = order.draw_samples, order.round_draws
        self.number = number
        self.first_cell = first_cell
        drawn = order.draws.drawn_before(number * count)
        draws = np.bincount(order.draws.sources(number * count, (number + 1) * count), minlength=len(drawn))
        cells = [
            stream.cells(start, end)
            for stream, start, end in zip(
                order.cells, (drawn * size).tolist(), ((drawn + draws) * size).tolist(), strict=True
            )
        ]
        self._samples = np.array([own.samples_before for own in cells])
        counts = [len(own.rows) for own in cells]
        numbers = first_cell + np.arange(sum(counts))
        self.end = first_cell + len(numbers)
        steps, lanes = np.divmod(numbers, order.settings.lanes)
        self._sources = np.zeros(len(numbers), np.int64)
        self._sources[np.lexsort((steps, lanes))] = np.repeat(np.arange(len(cells)), counts)
        self._rows: list[np.ndarray] = [np.empty(0, np.int64)] * len(numbers)
        for source, own in enumerate(cells):
            # A source's epochs follow one another step by step; within an epoch its cells go to lanes in stretches.
            places = np.flatnonzero(self._sources == source)
            epochs = order.cells[source].epochs(own)
            dealt = places[np.lexsort((steps[places], lanes[places], epochs))]
            for place, rows in zip(dealt.tolist(), own.rows, strict=True):
                self._rows[place] = rows
        self._sizes = np.array([len(rows) for rows in self._rows], np.int64)

    def cell(self, number: int) -> np.ndarray:
        return self._rows[number - self.first_cell]

    def samples_before(self, number: int) -> np.ndarray:
        earlier = slice(number - self.first_cell)
        found = self._samples.copy()
        np.add.at(found, self._sources[earlier], self._sizes[earlier])
        return found


def cells_of_fixed_round(order: Order) -> int:
    """Cells of each round where they are of a fixed count."""
    return order.settings.lanes * order.draw_samples // order.settings.num_samples_per_cell


def round_with(order: Order, cell: int, earlier: Round) -> Round:
    """The round that a cell lies in, sought from an earlier one on: under token budgets only filling tells where each ends."""
    if not order.settings.has_budgets:
        number = cell // cells_of_fixed_round(order)
        return earlier if number == earlier.number else FixedRound(order, number)
    found = earlier
    while cell >= found.end:
        found = PackedRound(order, found.number + 1, found.end)
    return found
