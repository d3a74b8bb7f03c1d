"""How often each language is drawn: weights by rule, and from weights the one endless sequence of draws.

A *draw* is a fixed number of samples of one language, so that shares of draws are shares of samples. The sequence runs in cycles of
C draws. Each cycle gives every language its share by largest remainder, with what rounding owes carried into the next cycle: after
every cycle a language's draws differ from its exact share by less than one. (Were nothing carried, a language whose share of a
cycle is below one half would never be drawn.)
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtllm_ds.config.data import MixingRule
from mtllm_ds.data.stream.epochs import LanguageSamples
from mtllm_ds.draws import permutation
from mtllm_ds.errors import UserError
from mtllm_ds.languages import check_language, nearest_code

_ONE = 1 << 40
"""Weights are integers that sum to this, so that nothing is lost to rounding however long a run is."""

_ORDER, _SUBSAMPLE = 1, 3  # purposes of a permutation, so that no two share a key (2 and 4 stand in epochs.py)


@dataclass(frozen=True)
class LanguageShares:
    """What a mixing rule makes of a data set."""

    weights: np.ndarray
    """(languages,) int64 summing to `_ONE`"""
    epochs: list[LanguageSamples]
    """By language: what makes up one epoch"""

    @property
    def shares(self) -> np.ndarray:
        """(languages,) float64 summing to 1"""
        return self.weights / _ONE


def language_shares(
    mixing: MixingRule,
    languages: tuple[str, ...],
    block_language: np.ndarray,
    block_samples: np.ndarray,
    seed: int,
    sample_size: np.ndarray | None = None,
) -> LanguageShares:
    """Weights and epochs of every language.

    Args:
        block_language: (blocks,) position in `languages`
        block_samples: (blocks,)
        sample_size: (languages,) what a sample counts for, such as its mean bytes; rules then count and share that. 1 where None

    Raises:
        UserError: a weight names a language that the data set lacks, or is negative; or there is too little of a language.
    """
    blocks = [np.flatnonzero(block_language == position) for position in range(len(languages))]
    epochs = [LanguageSamples(own, block_samples[own]) for own in blocks]
    samples = np.array([epoch.num_samples for epoch in epochs], np.float64)
    size = np.ones(len(languages)) if sample_size is None else sample_size
    if mixing.rule == "proportional":
        weights = samples
    elif mixing.rule == "temperature":
        assert mixing.temperature is not None
        logs = np.log(samples * size) / mixing.temperature
        weights = np.exp(logs - logs.max()) / size  # relative to the largest: no power overflows
    elif mixing.rule == "balanced":
        weights = 1 / size
        epochs = _subsample(_balanced_samples(mixing, languages, samples, size), epochs, seed)
    elif mixing.rule == "unimax":
        weights = _unimax(mixing, samples)
    else:
        weights = _explicit(mixing, languages) / size
    shares = LanguageShares(to_integers(weights), epochs)
    lost = [code for code, given, share in zip(languages, weights, shares.weights, strict=True) if not share and given]
    if lost or (mixing.rule == "temperature" and not shares.weights.all()):
        missing = lost or [code for code, share in zip(languages, shares.weights, strict=True) if not share]
        raise never_drawn(
            f"data.mixing: '{missing[0]}'", "raise it (as by a higher temperature) or prepare the data set without it"
        )
    return shares


def never_drawn(what: str, how_to_mend: str) -> UserError:
    """Of a share that is above 0, but rounds to nothing."""
    return UserError(f"{what} would never be drawn, its share is below {1 / _ONE:.0e}; {how_to_mend}")


def _balanced_samples(
    mixing: MixingRule, languages: tuple[str, ...], samples: np.ndarray, size: np.ndarray
) -> list[int]:
    """How many samples of each language are of one size: as asked for, or all of the smallest language's."""
    smallest = int(np.argmin(samples * size))
    if mixing.samples_per_language and mixing.samples_per_language > samples[smallest]:
        raise UserError(
            f"data.mixing.samples_per_language={mixing.samples_per_language}: there are only {int(samples[smallest])} samples of "
            f"'{languages[smallest]}'; lower it or leave that language out"
        )
    wanted = (mixing.samples_per_language or samples[smallest]) * size[smallest] / size
    return [max(1, int(count)) for count in np.minimum(np.floor(wanted + 1e-6), samples)]


def _subsample(wanted: list[int], epochs: list[LanguageSamples], seed: int) -> list[LanguageSamples]:
    """That many samples of each language, in whole blocks but for the last."""
    chosen = []
    for position, (count, own) in enumerate(zip(wanted, epochs, strict=True)):
        order = permutation(len(own.blocks), seed, _SUBSAMPLE, position)
        reached = np.cumsum(own.sizes[order])
        num_blocks = int(np.searchsorted(reached, count)) + 1
        sizes = own.sizes[order][:num_blocks].copy()
        sizes[-1] -= reached[num_blocks - 1] - count
        kept = np.argsort(own.blocks[order[:num_blocks]])
        chosen.append(LanguageSamples(own.blocks[order[:num_blocks]][kept], sizes[kept]))
    return chosen


def _unimax(mixing: MixingRule, samples: np.ndarray) -> np.ndarray:
    """The smallest languages first: each gets an equal part of what is left, or its cap."""
    assert mixing.max_epochs is not None and mixing.budget_samples is not None  # noqa: PT018
    left = float(mixing.budget_samples)
    weights = np.zeros(len(samples))
    for position, language in enumerate(np.argsort(samples, kind="stable")):
        weights[language] = min(left / (len(samples) - position), mixing.max_epochs * samples[language])
        left -= weights[language]
    return weights


def check_named(weights: Mapping[str, float], languages: tuple[str, ...]) -> dict[str, float]:
    """Weights by FLORES-200 code; `UserError` for a language that the data set lacks."""
    found = {}
    for given, weight in weights.items():
        code = check_language(given)
        if code not in languages:
            nearest = nearest_code(code, languages)
            raise UserError(
                f"data.mixing.weights: names '{code}', which the data set lacks; the nearest it has is '{nearest}'"
            )
        found[code] = weight
    return found


def _explicit(mixing: MixingRule, languages: tuple[str, ...]) -> np.ndarray:
    weights = np.zeros(len(languages))
    for code, weight in check_named(mixing.weights, languages).items():
        weights[languages.index(code)] = weight
    if not weights.any():
        raise UserError("data.mixing.weights: all are 0; set at least one above 0")
    return weights


def to_integers(weights: np.ndarray) -> np.ndarray:
    """(n,) int64: integers in the proportion of `weights` that sum to `_ONE`, by largest remainder."""
    scaled = np.ldexp(weights, -np.frexp(weights.max())[1])  # by a power of two, exactly: no sum overflows
    exact = scaled / scaled.sum() * _ONE
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
    """(sources,) int64 in units of 1/_ONE draw: exact share minus draws so far"""
    drawn: np.ndarray
    """(sources,) int64 draws so far"""


class DrawSequence:
    """Draw number -> source. A pure function of seed and shares; keeps the cycles last used, and a state now and then.

    Args:
        weights: (sources,) int64 summing to `_ONE`
        later: first cycle and weights of each later phase. What rounding owes is not carried from one into the next, so that
            shares hold within each
    """

    _CACHED_CYCLES = 64
    _STATE_EVERY = 64

    def __init__(
        self, weights: np.ndarray, cycle_draws: int, seed: int, later: Sequence[tuple[int, np.ndarray]] = ()
    ) -> None:
        self._phases = [(0, weights), *later]
        self._size = cycle_draws
        self._seed = seed
        self._cycles: OrderedDict[int, tuple[CycleState, np.ndarray]] = OrderedDict()
        sources = len(weights)
        self.resume_from(CycleState(0, np.zeros(sources, np.int64), np.zeros(sources, np.int64)))

    def resume_from(self, state: CycleState) -> None:
        """Know this state without having gone through what precedes it; earlier draws can no longer be asked for."""
        self._newest = state
        self._states = [state]
        self._cycles.clear()

    def sources(self, start: int, end: int) -> np.ndarray:
        """(end - start,) source of each draw, counted from 0."""
        cycles = range(start // self._size, -(-end // self._size))
        found = np.concatenate([self._cycle(cycle)[1] for cycle in cycles])
        return found[start - cycles.start * self._size :][: end - start]

    def drawn_before(self, draw: int) -> np.ndarray:
        """(sources,) draws of each before this one."""
        cycle, position = divmod(draw, self._size)
        state, sources = self._cycle(cycle)
        return state.drawn + np.bincount(sources[:position], minlength=len(state.drawn))

    def state_before(self, draw: int) -> CycleState:
        """State of the cycle that a draw lies in, for `resume_from`."""
        return self._cycle(draw // self._size)[0]

    def counts(self, state: CycleState) -> np.ndarray:
        """(sources,) draws of the cycle that follows `state`: all that is overdue, then what is due soonest."""
        weights = self._weights(state.cycle)
        target = state.owed + weights * self._size  # in units of 1/_ONE draw
        counts = np.maximum(target // _ONE, 0)
        missing = self._size - int(counts.sum())
        left = target - counts * _ONE
        # A source with a remainder may have one more; it goes to those whose next draw falls due first. (Plain largest remainder
        # may leave a small share waiting until two sources are overdue at once; earliest due date never does.)
        candidates = np.flatnonzero(left > 0)
        due = (_ONE - left[candidates]) / weights[candidates]
        counts[candidates[np.lexsort((candidates, due))[:missing]]] += 1
        return counts

    def _weights(self, cycle: int) -> np.ndarray:
        return next(weights for first, weights in reversed(self._phases) if first <= cycle)

    def _cycle(self, cycle: int) -> tuple[CycleState, np.ndarray]:
        if cycle not in self._cycles:
            state = self._state(cycle)
            order = permutation(self._size, self._seed, _ORDER, cycle)
            self._cycles[cycle] = state, np.repeat(np.arange(len(state.drawn)), self.counts(state))[order]
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
            owed = state.owed + self._weights(state.cycle) * self._size - counts * _ONE
            if any(first == state.cycle + 1 for first, _ in self._phases):
                owed = np.zeros_like(owed)
            state = CycleState(state.cycle + 1, owed, state.drawn + counts)
            if state.cycle == self._states[-1].cycle + self._STATE_EVERY:
                self._states.append(state)
        if state.cycle > self._newest.cycle:
            self._newest = state
        return state
