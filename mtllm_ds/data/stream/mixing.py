"""How often each language is drawn: weights by rule, and from weights the one endless sequence of draws.

A *draw* is one block of one language. The sequence runs in cycles of C draws. Each cycle gives every language its share by largest
remainder, with what rounding owes carried into the next cycle: after every cycle a language's draws differ from its exact share by
less than one. (Were nothing carried, a language whose share of a cycle is below one half would never be drawn.)
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mtllm_ds.data.stream.shuffling import permutation
from mtllm_ds.errors import UserError
from mtllm_ds.languages import check_language, nearest_code

MixingRule = Literal["proportional", "temperature", "balanced", "unimax", "explicit"]

_ONE = 1 << 40
"""Weights are integers that sum to this, so that nothing is lost to rounding however long a run is."""

_ORDER, _EPOCH, _SUBSAMPLE = 1, 2, 3  # purposes of a permutation, so that no two share a key


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Which share of the draws a language gets."""

    rule: MixingRule = "proportional"
    """`proportional`: by samples. `temperature`: by samples to the power 1/temperature. `balanced`: equal shares, each language
    sub-sampled to `samples_per_language`. `unimax`: equal shares, but no language above `max_epochs` within `budget_samples` (Chung
    et al., 2023, arXiv 2304.09151). `explicit`: `weights`."""
    temperature: float | None = None
    samples_per_language: int | None = None
    """For `balanced`, rounded to whole blocks; the smallest language's samples where None."""
    max_epochs: float | None = None
    budget_samples: int | None = None
    """For `unimax`: samples of the whole run."""
    weights: dict[str, float] = field(default_factory=dict)
    """For `explicit`: language to weight; a language that is not named is not drawn."""
    cycle_draws: int = 256
    """Draws after which shares are exact again."""

    def __post_init__(self) -> None:
        needs = {
            "proportional": (),
            "temperature": ("temperature",),
            "balanced": (),
            "unimax": ("max_epochs", "budget_samples"),
            "explicit": ("weights",),
        }
        if self.rule not in needs:
            raise UserError(f"mixing rule '{self.rule}' is unknown, use one of {', '.join(needs)}")
        optional = {"balanced": ("samples_per_language",)}.get(self.rule, ())
        for name in ("temperature", "samples_per_language", "max_epochs", "budget_samples", "weights"):
            value = getattr(self, name)
            if not value and name in needs[self.rule]:
                raise UserError(f"mixing rule '{self.rule}' needs mixing.{name}, set it")
            if value and name not in (*needs[self.rule], *optional):
                raise UserError(f"mixing.{name} has no effect with the rule '{self.rule}', remove it")
            if name != "weights" and value is not None and value <= 0:
                raise UserError(f"mixing.{name} is {value}, set it above 0")
        if self.cycle_draws < 1:
            raise UserError(f"mixing.cycle_draws is {self.cycle_draws}, set it to at least 1")


@dataclass(frozen=True)
class LanguageShares:
    """What a mixing rule makes of a data set."""

    weights: np.ndarray
    """(languages,) int64 summing to `_ONE`"""
    blocks: list[np.ndarray]
    """By language: the blocks that make up one epoch, in the data set's order."""

    @property
    def shares(self) -> np.ndarray:
        """(languages,) float64 summing to 1"""
        return self.weights / _ONE


def language_shares(
    mixing: Mixing, languages: tuple[str, ...], block_language: np.ndarray, block_samples: np.ndarray, seed: int
) -> LanguageShares:
    """Weights and epochs of every language.

    Args:
        block_language: (blocks,) position in `languages`
        block_samples: (blocks,)

    Raises:
        UserError: a weight names a language that the data set lacks, or is negative; or there is too little of a language.
    """
    blocks = [np.flatnonzero(block_language == position) for position in range(len(languages))]
    samples = np.array([block_samples[own].sum() for own in blocks], np.float64)
    if mixing.rule == "proportional":
        weights = samples
    elif mixing.rule == "temperature":
        assert mixing.temperature is not None
        weights = samples ** (1 / mixing.temperature)
    elif mixing.rule == "balanced":
        weights = np.ones(len(languages))
        blocks = _subsample(mixing, languages, blocks, block_samples, samples, seed)
    elif mixing.rule == "unimax":
        weights = _unimax(mixing, samples)
    else:
        weights = _explicit(mixing, languages)
    return LanguageShares(_to_integers(weights), blocks)


def _subsample(
    mixing: Mixing,
    languages: tuple[str, ...],
    blocks: list[np.ndarray],
    block_samples: np.ndarray,
    samples: np.ndarray,
    seed: int,
) -> list[np.ndarray]:
    wanted = mixing.samples_per_language or int(samples.min())
    if wanted > samples.min():
        poorest = int(samples.argmin())
        raise UserError(
            f"mixing.samples_per_language is {wanted}, but there are only {int(samples.min())} samples of "
            f"'{languages[poorest]}'; lower it or leave that language out"
        )
    chosen = []
    for position, own in enumerate(blocks):
        shuffled = own[permutation(len(own), seed, _SUBSAMPLE, position)]
        reached = np.cumsum(block_samples[shuffled])
        chosen.append(np.sort(shuffled[: int(np.searchsorted(reached, wanted)) + 1]))
    return chosen


def _unimax(mixing: Mixing, samples: np.ndarray) -> np.ndarray:
    """The smallest languages first: each gets an equal part of what is left, or its cap."""
    assert mixing.max_epochs is not None and mixing.budget_samples is not None  # noqa: PT018
    left = float(mixing.budget_samples)
    weights = np.zeros(len(samples))
    for position, language in enumerate(np.argsort(samples, kind="stable")):
        weights[language] = min(left / (len(samples) - position), mixing.max_epochs * samples[language])
        left -= weights[language]
    return weights


def _explicit(mixing: Mixing, languages: tuple[str, ...]) -> np.ndarray:
    weights = np.zeros(len(languages))
    for given, weight in mixing.weights.items():
        code = check_language(given)
        if code not in languages:
            nearest = nearest_code(code, languages)
            raise UserError(
                f"mixing.weights names '{code}', which the data set lacks; the nearest it has is '{nearest}'"
            )
        if not weight >= 0:
            raise UserError(f"mixing.weights of '{code}' is {weight}, set it to 0 or more")
        weights[languages.index(code)] = weight
    if not weights.any():
        raise UserError("mixing.weights are all 0, set at least one above 0")
    return weights


def _to_integers(weights: np.ndarray) -> np.ndarray:
    """Integers in the proportion of `weights` that sum to `_ONE`, by largest remainder."""
    exact = weights / weights.sum() * _ONE
    integers = np.floor(exact).astype(np.int64)
    missing = _ONE - int(integers.sum())
    largest = np.argsort(integers - exact, kind="stable")
    integers[largest[:missing]] += 1
    return integers


@dataclass(frozen=True)
class CycleState:
    """What precedes a cycle: enough to go on from there."""

    cycle: int
    owed: np.ndarray
    """(languages,) int64 in units of 1/_ONE draw: exact share minus draws so far"""
    drawn: np.ndarray
    """(languages,) int64 draws so far"""


class DrawSequence:
    """Draw number -> block. A pure function of seed and shares; keeps the cycles last used, and a state now and then."""

    _CACHED_CYCLES = 64
    _STATE_EVERY = 64

    def __init__(self, shares: LanguageShares, cycle_draws: int, seed: int) -> None:
        self.shares = shares
        self._size = cycle_draws
        self._seed = seed
        self._cycles: OrderedDict[int, tuple[CycleState, np.ndarray]] = OrderedDict()
        self._epochs: dict[int, tuple[int, np.ndarray]] = {}
        languages = len(shares.weights)
        self.resume_from(CycleState(0, np.zeros(languages, np.int64), np.zeros(languages, np.int64)))

    def resume_from(self, state: CycleState) -> None:
        """Know this state without having gone through what precedes it; earlier draws can no longer be asked for."""
        self._newest = state
        self._states = [state]
        self._cycles.clear()

    def block(self, draw: int) -> int:
        """The block of a draw, counted from 0."""
        cycle, position = divmod(draw, self._size)
        return int(self._cycle(cycle)[1][position])

    def state_before(self, draw: int) -> CycleState:
        """State of the cycle that a draw lies in, for `resume_from`."""
        return self._cycle(draw // self._size)[0]

    def counts(self, state: CycleState) -> np.ndarray:
        """(languages,) draws of the cycle that follows `state`: all that is overdue, then what is due soonest."""
        target = state.owed + self.shares.weights * self._size  # in units of 1/_ONE draw
        counts = np.maximum(target // _ONE, 0)
        missing = self._size - int(counts.sum())
        left = target - counts * _ONE
        # A language with a remainder may have one more; it goes to those whose next draw falls due first. (Plain largest remainder
        # may leave a small share waiting until two languages are overdue at once; earliest due date never does.)
        candidates = np.flatnonzero(left > 0)
        due = (_ONE - left[candidates]) / self.shares.weights[candidates]
        counts[candidates[np.lexsort((candidates, due))[:missing]]] += 1
        return counts

    def _cycle(self, cycle: int) -> tuple[CycleState, np.ndarray]:
        if cycle not in self._cycles:
            state = self._state(cycle)
            self._cycles[cycle] = state, self._blocks_of(state, self.counts(state))
            if len(self._cycles) > self._CACHED_CYCLES:
                self._cycles.popitem(last=False)
        self._cycles.move_to_end(cycle)
        return self._cycles[cycle]

    def _state(self, cycle: int) -> CycleState:
        """The state before a cycle, from the nearest one known."""
        state = self._newest
        if state.cycle > cycle:
            state = self._states[(cycle - self._states[0].cycle) // self._STATE_EVERY]
            assert state.cycle <= cycle, "a draw before the point this sequence was resumed from"
        while state.cycle < cycle:
            counts = self.counts(state)
            owed = state.owed + self.shares.weights * self._size - counts * _ONE
            state = CycleState(state.cycle + 1, owed, state.drawn + counts)
            if state.cycle == self._states[-1].cycle + self._STATE_EVERY:
                self._states.append(state)
        if state.cycle > self._newest.cycle:
            self._newest = state
        return state

    def _blocks_of(self, state: CycleState, counts: np.ndarray) -> np.ndarray:
        """(cycle_draws,) blocks of a cycle, in its shuffled order."""
        blocks = [
            self._draws_of(language, int(state.drawn[language]), int(n)) for language, n in enumerate(counts) if n
        ]
        order = permutation(self._size, self._seed, _ORDER, state.cycle)
        # Draws of one language keep their order, so that an epoch ends before the next one begins.
        languages = np.repeat(np.arange(len(counts)), counts)[order]
        shuffled = np.empty(self._size, np.int64)
        shuffled[np.argsort(languages, kind="stable")] = np.concatenate(blocks)
        return shuffled

    def _draws_of(self, language: int, start: int, count: int) -> np.ndarray:
        """Blocks of draws `start` to `start + count` of a language: its permuted epochs, end to end."""
        own = self.shares.blocks[language]
        blocks = []
        while count:
            epoch, position = divmod(start, len(own))
            part = self._epoch(language, epoch)[position : position + count]
            blocks.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(blocks)

    def _epoch(self, language: int, epoch: int) -> np.ndarray:
        if self._epochs.get(language, (-1,))[0] != epoch:
            own = self.shares.blocks[language]
            self._epochs[language] = epoch, own[permutation(len(own), self._seed, _EPOCH, language, epoch)]
        return self._epochs[language][1]
