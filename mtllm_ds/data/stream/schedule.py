"""The order of training as a pure function of the data set's index, the settings and a seed: no cluster can change it.

Lane l of L owns draws l, l + L, l + 2L, ... of the global sequence (`mixing.py`), each a fixed number of samples of one language;
which samples, `epochs.py` says. Each step, each lane emits one *cell* of samples: a fixed count, or as many as fit a budget of
tokens. The global batch of a step is the cells of all lanes. Ranks run whole lanes, so they never have to agree on anything.

With cells of a fixed count all lanes go at one pace, and after every step each language's samples are a beginning of its stream of
epochs: none twice before all once. Under token budgets that holds of what lanes take in, draw by draw; lanes with longer samples
then fall behind others by some draws, so that epochs overlap at their ends.
"""

from collections.abc import Iterable
from math import ceil
from typing import Any

import numpy as np

from mtllm_ds.config.data import OrderSettings
from mtllm_ds.config.section import fixed_fields
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.stream.epochs import EpochStream
from mtllm_ds.data.stream.mixing import CycleState, DrawSequence, language_shares
from mtllm_ds.errors import UserError

CURSOR_VERSION = 2
"""2: draws are samples, dealt so that epochs are true; 1 drew whole blocks."""

_CACHED_STARTS = 16  # lanes are seldom further apart


def cells_in_forward(lanes: int, cells_per_forward: int, world_size: int) -> int:
    """Cells that go into one forward: `cells_per_forward`, or fewer where ranks would be left without any."""
    return min(cells_per_forward, ceil(lanes / world_size))


class Order:
    """What the lanes of one data set have in common: draws, rows within draws, lengths. Read-only, shared by all lanes."""

    def __init__(self, manifest: Manifest, settings: OrderSettings, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self.first_row = manifest.first_row
        self.block_language = manifest.index.language
        self.encoder_lengths = manifest.encoder_lengths
        self.llm_lengths = manifest.llm_lengths
        if not manifest.num_samples:
            raise UserError(f"the data set in '{manifest.storage.root}' holds no samples")
        self._check_budgets()
        samples = np.diff(self.first_row)
        self.shares = language_shares(settings.mixing, manifest.languages, self.block_language, samples, seed)
        self.draws = DrawSequence(self.shares, settings.mixing.cycle_draws, seed)
        count = settings.num_samples_per_cell
        self.draw_samples = count * max(1, round(int(samples.max()) / count))
        """Samples of every draw: about a block, and whole cells"""
        self.epoch_samples = np.array([epoch.num_samples for epoch in self.shares.epochs])
        """(languages,) samples of one epoch, after sub-sampling"""
        self._beside: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._streams = [
            EpochStream(epoch, language, self.first_row, seed) for language, epoch in enumerate(self.shares.epochs)
        ]

    def _check_budgets(self) -> None:
        budgets = {side: getattr(self.settings, f"{side}_tokens_per_cell") for side in ("encoder", "llm")}
        for side, lengths in (("encoder", self.encoder_lengths), ("llm", self.llm_lengths)):
            # A side that reads nothing has no length, and needs no budget.
            if self.settings.has_budgets and budgets[side] is None and lengths.max() > 0:
                raise UserError(f"data.{side}_tokens_per_cell=null: the other side has a budget; set both or none")
            if (budget := budgets[side]) is not None and budget < lengths.max():
                raise UserError(
                    f"data.{side}_tokens_per_cell is {budget}, but the longest sample has {lengths.max()} tokens; raise it"
                )

    def rows_of_draw(self, draw: int) -> np.ndarray:
        """(draw_samples,) rows of a draw in the order in which they are emitted."""
        lanes = self.settings.lanes
        lane, start = draw % lanes, draw - draw % lanes
        if start not in self._beside:
            self._beside[start] = self.draws.languages(start, start + lanes), self.draws.drawn_before(start)
            if len(self._beside) > _CACHED_STARTS:
                del self._beside[next(iter(self._beside))]
        beside, drawn = self._beside[start]
        language = int(beside[lane])
        position = int(drawn[language]) * self.draw_samples
        readers = np.flatnonzero(beside == language)
        return self._streams[language].rows_of_lane(
            position, self.draw_samples, int(np.searchsorted(readers, lane)), len(readers)
        )

    def samples_before(self, draw: int, row: int) -> np.ndarray:
        """(languages,) samples that all lanes have taken once each has taken its first `draw` draws and `row` rows of the next."""
        lanes = self.settings.lanes
        whole = self.draws.drawn_before(draw * lanes) * self.draw_samples
        beside = self.draws.languages(draw * lanes, (draw + 1) * lanes)
        return whole + row * np.bincount(beside, minlength=len(whole))

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
        return self._take(settings.num_samples_per_cell)

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

    def _next_cell_within_budgets(self) -> np.ndarray:
        """The oldest sample that waits, then the longest that still fit both budgets."""
        order, settings = self._order, self._order.settings
        if len(self._pending) < settings.queue_size:
            self._pending = np.concatenate([self._pending, self._take(settings.queue_size - len(self._pending))])
        rows = self._pending
        chosen = fill_cell(
            order.encoder_lengths[rows].astype(np.int64),
            order.llm_lengths[rows].astype(np.int64),
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

    def go_to(self, step: int) -> None:
        """Move on to a later step. Cells of a fixed count are skipped at once; under token budgets each lane must pack its own."""
        if self.order.settings.has_budgets:
            while self.step < step:
                self.next_cells()
            return
        draw, row = divmod(step * self.order.settings.num_samples_per_cell, self.order.draw_samples)
        self.lanes = {lane: Lane(self.order, lane, draw, row) for lane in self.lanes}
        self.samples_of_language = self.order.samples_before(draw, row)
        self.step = step

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
        oldest = min(lane.global_draw for lane in self.lanes.values())
        state = self.order.draws.state_before(oldest - oldest % len(self.lanes))  # all draws beside it are asked for
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


def order_settings(settings: OrderSettings) -> dict[str, Any]:
    """The settings that the order depends on, fit for JSON."""
    values = settings.model_dump(mode="json")
    return {name: values[name] for name in fixed_fields(OrderSettings)}


def check_cursor(cursor: dict[str, Any], manifest: Manifest, settings: OrderSettings, seed: int) -> None:
    """Refuse a cursor of another data set, order or version.

    Raises:
        UserError: says what differs.
    """
    if cursor.get("version") != CURSOR_VERSION:
        raise UserError(
            f"the checkpoint's cursor is of version {cursor.get('version')}, this code reads {CURSOR_VERSION}: the order of the "
            "data has changed since; end that run with the version of mtllm_ds that began it, or start anew"
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
