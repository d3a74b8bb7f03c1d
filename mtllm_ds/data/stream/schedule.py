"""The order of training as a pure function of the data set's index, the settings and a seed: no cluster can change it.

Lane l of L owns draws l, l + L, l + 2L, ... (`mixing.py` says which block a draw is); the rows of a draw are permuted. Each step,
each lane emits one *cell* of samples: a fixed count, or as many as fit a budget of tokens. The global batch of a step is the cells
of all lanes. Ranks run whole lanes, so they never have to agree on anything.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from math import ceil
from typing import Any

import numpy as np

from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.stream.mixing import CycleState, DrawSequence, Mixing, language_shares
from mtllm_ds.data.stream.shuffling import permutation
from mtllm_ds.errors import UserError

CURSOR_VERSION = 1
_ROWS = 4  # purpose of a permutation (1 to 3 stand in mixing.py)


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """What decides the order. All but `FREE_ON_RESUME` must stay as they are when a run goes on."""

    lanes: int = 64
    """Independent sequences; at least as many as ranks."""
    samples_per_cell: int = 4
    """Samples a lane emits a step, unless a token budget is set."""
    cells_per_forward: int = 1
    """Whole cells in one forward: speed, and which cells share a draw of dropout."""
    encoder_tokens_per_cell: int | None = None
    """Budget of a cell on the encoder's side; together with the LLM's it replaces `samples_per_cell`."""
    llm_tokens_per_cell: int | None = None
    encoder_buckets: int = 6
    """With token budgets: padded encoder inputs a forward, speed only."""
    queue_size: int = 128
    """With token budgets: samples a lane looks ahead to fill a cell."""
    one_language_per_cell: bool = False
    """Never put two languages into one cell. One-teacher-a-language training needs it, with one cell a forward."""
    mixing: Mixing = field(default_factory=Mixing)

    def __post_init__(self) -> None:
        for name in ("lanes", "samples_per_cell", "cells_per_forward", "encoder_buckets", "queue_size"):
            if getattr(self, name) < 1:
                raise UserError(f"data.{name} is {getattr(self, name)}, set it to at least 1")
        if (self.encoder_tokens_per_cell is None) != (self.llm_tokens_per_cell is None):
            raise UserError(
                "only one of data.encoder_tokens_per_cell and data.llm_tokens_per_cell is set, set both or none"
            )

    @property
    def has_budgets(self) -> bool:
        return self.llm_tokens_per_cell is not None


FREE_ON_RESUME = frozenset({"cells_per_forward", "encoder_buckets"})
"""Settings that may change when a run goes on, besides ranks and workers: they do not touch the order (but may change how
dropout falls, which the trainer then says)."""


def cells_in_forward(lanes: int, cells_per_forward: int, world_size: int) -> int:
    """Cells that go into one forward: `cells_per_forward`, or fewer where ranks would be left without any."""
    return min(cells_per_forward, ceil(lanes / world_size))


class Order:
    """What the lanes of one data set have in common: draws, rows within draws, lengths. Read-only, shared by all lanes."""

    def __init__(self, manifest: Manifest, settings: ScheduleSettings, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self.first_row = manifest.first_row
        self.block_language = manifest.index.language
        self.encoder_lengths = manifest.encoder_lengths
        self.llm_lengths = manifest.llm_lengths
        if not manifest.num_samples:
            raise UserError(f"the data set in '{manifest.storage.root}' holds no samples")
        for side, lengths in (("encoder", self.encoder_lengths), ("llm", self.llm_lengths)):
            budget = getattr(settings, f"{side}_tokens_per_cell")
            if budget is not None and budget < lengths.max():
                raise UserError(
                    f"data.{side}_tokens_per_cell is {budget}, but the longest sample has {lengths.max()} tokens; raise it"
                )
        self.shares = language_shares(
            settings.mixing, manifest.languages, self.block_language, np.diff(self.first_row), seed
        )
        self.draws = DrawSequence(self.shares, settings.mixing.cycle_draws, seed)
        samples = np.diff(self.first_row)
        self.epoch_samples = np.array([samples[blocks].sum() for blocks in self.shares.blocks])
        """(languages,) samples of one epoch, after sub-sampling"""

    def rows_of_draw(self, draw: int) -> np.ndarray:
        """(samples,) rows of a draw in the order in which they are emitted."""
        block = self.draws.block(draw)
        start, end = int(self.first_row[block]), int(self.first_row[block + 1])
        return start + permutation(end - start, self.seed, _ROWS, draw)

    def language_of_rows(self, rows: np.ndarray) -> np.ndarray:
        """(n,) position in the manifest's languages."""
        return self.block_language[np.searchsorted(self.first_row, rows, side="right") - 1]


class Lane:
    """One lane's position. `draw` counts the lane's own draws; `pending` are rows taken from draws but not yet emitted."""

    def __init__(self, order: Order, lane: int, draw: int = 0, row: int = 0, pending: Iterable[int] = ()) -> None:
        self._order = order
        self._lane = lane
        self._draw = draw
        self._row = row
        self._rows: np.ndarray | None = None
        self._pending = np.array(list(pending), np.int64)

    @property
    def global_draw(self) -> int:
        """Number, in the global sequence, of the draw that this lane reads next."""
        return self._lane + self._draw * self._order.settings.lanes

    def state(self) -> list[Any]:
        """[draw, row, [pending rows]]: with the order, all there is to know."""
        return [self._draw, self._row, self._pending.tolist()]

    def next_cell(self) -> np.ndarray:
        """Rows of the next cell; moves on."""
        settings = self._order.settings
        if settings.has_budgets:
            return self._next_cell_within_budgets()
        if settings.one_language_per_cell:
            return self._next_cell_of_one_language()
        return self._take(settings.samples_per_cell)

    def _current_rows(self) -> np.ndarray:
        """What is left of the current draw; never empty."""
        if self._rows is None:
            self._rows = self._order.rows_of_draw(self.global_draw)
        return self._rows[self._row :]

    def _advance(self, count: int) -> None:
        self._row += count
        if self._rows is not None and self._row == len(self._rows):
            self._draw, self._row, self._rows = self._draw + 1, 0, None

    def _take(self, count: int) -> np.ndarray:
        """The next `count` rows of the lane's sequence."""
        parts = []
        while count:
            part = self._current_rows()[:count]
            self._advance(len(part))
            parts.append(part)
            count -= len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _next_cell_of_one_language(self) -> np.ndarray:
        """Stops short where the next draw is of another language."""
        count = self._order.settings.samples_per_cell
        cell = self._current_rows()[:count]
        self._advance(len(cell))
        language = self._order.language_of_rows(cell[:1])
        while len(cell) < count and self._order.language_of_rows(self._current_rows()[:1]) == language:
            part = self._current_rows()[: count - len(cell)]
            self._advance(len(part))
            cell = np.concatenate([cell, part])
        return cell

    def _next_cell_within_budgets(self) -> np.ndarray:
        """The oldest sample that waits, then the longest that still fit both budgets."""
        order, settings = self._order, self._order.settings
        if len(self._pending) < settings.queue_size:
            self._pending = np.concatenate([self._pending, self._take(settings.queue_size - len(self._pending))])
        rows = self._pending
        chosen = fill_cell(
            order.encoder_lengths[rows],
            order.llm_lengths[rows],
            settings.encoder_tokens_per_cell or 0,
            settings.llm_tokens_per_cell or 0,
            order.language_of_rows(rows) if settings.one_language_per_cell else None,
        )
        self._pending = np.delete(rows, chosen)
        return rows[chosen]


def fill_cell(
    encoder_lengths: np.ndarray,
    llm_lengths: np.ndarray,
    encoder_budget: int,
    llm_budget: int,
    languages: np.ndarray | None = None,
) -> np.ndarray:
    """Positions of the samples that make up a cell: the oldest (0), then greedily the longest that still fit both budgets.

    Longest means on the LLM's side, then on the encoder's; of equals the oldest. As budgets only shrink, one pass over the samples
    in that order is the greedy choice.

    Args:
        encoder_lengths, llm_lengths: (n,) tokens of the samples, oldest first
        languages: (n,) if all of a cell must be of the language of the oldest
    """
    encoder_left, llm_left = encoder_budget - int(encoder_lengths[0]), llm_budget - int(llm_lengths[0])
    eligible = np.flatnonzero((encoder_lengths[1:] <= encoder_left) & (llm_lengths[1:] <= llm_left)) + 1
    if languages is not None:
        eligible = eligible[languages[eligible] == languages[0]]
    longest_first = eligible[np.lexsort((eligible, -encoder_lengths[eligible], -llm_lengths[eligible]))]
    chosen = [0]
    for position, encoder_length, llm_length in zip(
        longest_first.tolist(),
        encoder_lengths[longest_first].tolist(),
        llm_lengths[longest_first].tolist(),
        strict=True,
    ):
        if encoder_length <= encoder_left and llm_length <= llm_left:
            encoder_left -= encoder_length
            llm_left -= llm_length
            chosen.append(position)
    return np.array(chosen)


class Schedule:
    """Cells of some lanes, step by step. With all lanes it can also tell the cursor."""

    def __init__(self, order: Order, lanes: Iterable[int], cursor: dict[str, Any] | None = None) -> None:
        self.order = order
        self.step = cursor["step"] if cursor else 0
        if cursor:
            state = cursor["mixing_state"]
            owed, drawn = np.array(state["owed"], np.int64), np.array(state["drawn"], np.int64)
            order.draws.resume_from(CycleState(state["cycle"], owed, drawn))
        self.lanes = {lane: Lane(order, lane, *(cursor["lanes"][lane] if cursor else ())) for lane in lanes}
        none = [0] * len(order.epoch_samples)
        self.samples_of_language = np.array(cursor["samples_of_language"] if cursor else none, np.int64)

    @property
    def epochs_of_language(self) -> np.ndarray:
        """(languages,)"""
        return self.samples_of_language / self.order.epoch_samples

    def next_cells(self) -> dict[int, np.ndarray]:
        """Rows of the next step's cells by lane; moves on by a step."""
        cells = {lane: position.next_cell() for lane, position in self.lanes.items()}
        languages = self.order.language_of_rows(np.concatenate(list(cells.values())))
        self.samples_of_language += np.bincount(languages, minlength=len(self.samples_of_language))
        self.step += 1
        return cells

    def cursor(self, manifest_hash: str) -> dict[str, Any]:
        """Position after the last step, fit for JSON."""
        assert len(self.lanes) == self.order.settings.lanes, "a cursor needs all lanes"
        state = self.order.draws.state_before(min(lane.global_draw for lane in self.lanes.values()))
        return {
            "version": CURSOR_VERSION,
            "manifest": manifest_hash,
            "seed": self.order.seed,
            "settings": order_settings(self.order.settings),
            "step": self.step,
            "mixing_state": {"cycle": state.cycle, "owed": state.owed.tolist(), "drawn": state.drawn.tolist()},
            "samples_of_language": self.samples_of_language.tolist(),
            "lanes": [self.lanes[lane].state() for lane in range(len(self.lanes))],
        }


def order_settings(settings: ScheduleSettings) -> dict[str, Any]:
    """The settings that the order depends on, fit for JSON."""
    return {f.name: _plain(getattr(settings, f.name)) for f in fields(settings) if f.name not in FREE_ON_RESUME}


def _plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, Mixing) else value


def check_cursor(cursor: dict[str, Any], manifest: Manifest, settings: ScheduleSettings, seed: int) -> None:
    """Refuse a cursor of another data set, order or version.

    Raises:
        UserError: says what differs.
    """
    if cursor.get("version") != CURSOR_VERSION:
        raise UserError(
            f"the checkpoint's cursor is of version {cursor.get('version')}, this code reads {CURSOR_VERSION}"
        )
    if cursor["manifest"] != manifest.hash:
        raise UserError(
            f"the checkpoint was made on another data set than '{manifest.storage.root}' (manifest {cursor['manifest'][:12]} "
            f"instead of {manifest.hash[:12]}); go on with that one or start anew"
        )
    wanted = order_settings(settings) | {"seed": seed}
    for name, value in (cursor["settings"] | {"seed": cursor["seed"]}).items():
        if wanted.get(name) != value:
            place = "run.seed" if name == "seed" else f"data.{name}"
            raise UserError(
                f"{place} is {wanted.get(name)}, but the checkpoint's run has {value}; it may not change on resume"
            )
