"""The order of training as a pure function of the data set's index, the settings and a seed: no cluster can change it.

The global sequence of draws (`mixing.py`), each a fixed number of samples of one language (`epochs.py`), is read in rounds of some
draws for each lane (`rounds.py`). Each step, each lane emits one *cell* of samples of one language: a fixed count, or as
many as fit a budget of tokens (`filling.py`). The global batch of a step is the cells of all lanes. Ranks run whole lanes, so they
never have to agree on anything.

After every step each language's samples are whole epochs and a part of the next: none was seen twice before all were seen once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from mtllm_ds.config.data import OrderSettings
from mtllm_ds.config.section import fixed_fields
from mtllm_ds.data.shards.joined import parts_of
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.stream.mixing import CycleState
from mtllm_ds.data.stream.order import Order
from mtllm_ds.data.stream.rounds import FixedRound, PackedRound, Round, round_with
from mtllm_ds.errors import UserError

CURSOR_VERSION = 4
"""What the order is; `tests/data/stream/test_schedule.py` knows it. 4: under token budgets draws of 32 samples, no stretch beyond
some samples; 3: under token budgets epochs are true; 2: lanes filled their own cells; 1: draws were whole blocks."""


def cells_in_forward(lanes: int, cells_per_forward: int, world_size: int) -> int:
    """Cells that go into one forward: `cells_per_forward`, or fewer where ranks would be left without any."""
    return min(cells_per_forward, ceil(lanes / world_size))


@dataclass(frozen=True)
class Place:
    """Where all lanes stand before a step; the same whichever rank tells it."""

    step: int
    round: int
    """The round in which the step begins"""
    round_first_cell: int
    samples: np.ndarray
    """(sources,) int64 samples of all steps before"""

    @classmethod
    def beginning(cls, order: Order) -> "Place":
        """That of the first step."""
        return cls(0, 0, 0, np.zeros(len(order.streams), np.int64))


class Schedule:
    """Cells of some lanes, step by step, from the run's beginning or from a place."""

    def __init__(self, order: Order, lanes: Iterable[int], place: Place | None = None) -> None:
        self.order = order
        self.lanes = sorted(lanes)
        place = place or Place.beginning(order)
        self._round: Round = _round_at(order, place)
        self._step = place.step

    @property
    def place(self) -> Place:
        """Where it stands."""
        first = self._step * self.order.settings.lanes
        self._round = round_with(self.order, first, self._round)
        return Place(self._step, self._round.number, self._round.first_cell, self._round.samples_before(first))

    def go_to(self, step: int) -> None:
        """Move on to a later step: at once with cells of a fixed count, by filling the rounds between under token budgets."""
        self._step = step

    def next_cells(self) -> dict[int, np.ndarray]:
        """Rows of the next step's cells by lane; moves on by a step."""
        first = self._step * self.order.settings.lanes
        cells = {}
        for lane in self.lanes:
            self._round = round_with(self.order, first + lane, self._round)
            cells[lane] = self._round.cell(first + lane)
        self._step += 1
        return cells


def _round_at(order: Order, place: Place) -> Round:
    if order.settings.has_budgets:
        return PackedRound(order, place.round, place.round_first_cell)
    return FixedRound(order, place.round)


def cursor_of(place: Place, order: Order, manifest: Manifest) -> dict[str, Any]:
    """A place with all that it depends on, fit for JSON."""
    state = order.draws.state_before(place.round * order.round_draws)
    return {
        "version": CURSOR_VERSION,
        "sets": _sets(manifest),
        "seed": order.seed,
        "settings": order_settings(order.settings),
        "step": place.step,
        "round": place.round,
        "round_first_cell": place.round_first_cell,
        "mixing_state": {"cycle": state.cycle, "owed": state.owed.tolist(), "drawn": state.drawn.tolist()},
        "samples": place.samples.tolist(),
    }


def place_of(cursor: dict[str, Any], order: Order) -> Place:
    """The place that a cursor names; the order then knows its draws from there on, without going through those before."""
    state = cursor["mixing_state"]
    owed, drawn = np.array(state["owed"], np.int64), np.array(state["drawn"], np.int64)
    order.draws.resume_from(CycleState(state["cycle"], owed, drawn))
    samples = np.array(cursor["samples"], np.int64)
    return Place(cursor["step"], cursor["round"], cursor["round_first_cell"], samples)


def order_settings(settings: OrderSettings) -> dict[str, Any]:
    """The settings that the order depends on, fit for JSON."""
    values = settings.model_dump(mode="json")
    return {name: values[name] for name in fixed_fields(OrderSettings)}


def _sets(manifest: Manifest) -> list[dict[str, Any]]:
    return [{"manifest": part.hash, "weight": weight} for part, weight in parts_of(manifest)]


def check_cursor(cursor: dict[str, Any], manifest: Manifest, settings: OrderSettings, seed: int) -> None:
    """Refuse a cursor of another data set, order or version.

    Raises:
        UserError: says what differs.
    """
    if cursor.get("version") != CURSOR_VERSION:
        raise UserError(
            f"--resume: the checkpoint's cursor is of version {cursor.get('version')}, this code reads {CURSOR_VERSION}, the order "
            "of the data has changed since; end that run with the version of mtllm_ds that began it, or start anew"
        )
    before, now = cursor["sets"], _sets(manifest)
    if [one["manifest"] for one in before] != [one["manifest"] for one in now]:
        hashes = [", ".join(one["manifest"][:12] for one in sets) for sets in (before, now)]
        raise UserError(
            f"--resume: the checkpoint was made on another data set than '{manifest.storage.root}' (manifest {hashes[0]} instead "
            f"of {hashes[1]}); go on with that one or start anew"
        )
    if before != now:
        weights = [[one["weight"] for one in sets] for sets in (now, before)]
        raise UserError(
            f"data.train: has the weights {weights[0]}, but the checkpoint's run has {weights[1]}; they may not change on resume"
        )
    wanted = order_settings(settings) | {"seed": seed}
    for name, value in (cursor["settings"] | {"seed": cursor["seed"]}).items():
        if wanted.get(name) != value:
            place = "run.seed" if name == "seed" else f"data.{name}"
            raise UserError(
                f"--resume: {place}={wanted.get(name)}, but the checkpoint's run has {value}; put it back, it may not change"
            )
