"""Scores and their uncertainty: accuracy, macro-F1, paired bootstrap over source groups, Holm's correction. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Share of items answered right."""
    return float(np.mean(np.asarray(labels) == np.asarray(predictions)))


def macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Mean F1 over the classes that occur among the labels; a class that is only predicted has no term of its own."""
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    scores = []
    for name in np.unique(labels):
        hits = np.sum((labels == name) & (predictions == name))
        scores.append(2 * hits / (np.sum(labels == name) + np.sum(predictions == name)))
    return float(np.mean(scores))


def gap_closed(system: Sequence[float], floor: Sequence[float], ceiling: Sequence[float]) -> float:
    """Share of the distance from floor to ceiling that a system covers, as a ratio of means over languages.

    (A mean of ratios would be ruled by the language with the smallest distance.) NaN if floor and ceiling have the same mean.
    """
    possible = float(np.mean(ceiling) - np.mean(floor))
    return float(np.mean(system) - np.mean(floor)) / possible if possible else float("nan")


def english_kept(system: float, teacher: float) -> float:
    """Share of the teacher's English accuracy that a system keeps on the same English items."""
    return system / teacher if teacher else float("nan")


@dataclass(frozen=True)
class PairedScores:
    """Two systems on the same items of one language.

    Attributes:
        groups: (n,) names of source groups, shared between languages
        first, second: (n, S) scores (1 right, 0 wrong) a seed; column s of one is paired with column s of the other.
    """

    groups: np.ndarray
    first: np.ndarray
    second: np.ndarray


@dataclass(frozen=True)
class Difference:
    """A mean difference with its bootstrap: `low` and `high` bound the central 95%; `p` is two-sided."""

    mean: float
    low: float
    high: float
    p: float
    num_items: int
    num_groups: int
    num_seeds: int


def paired_bootstrap(
    languages: Mapping[str, PairedScores], num_resamples: int = 10_000, seed: int = 0, chunk: int = 500
) -> Difference:
    """Bootstrap of `first - second`, averaged over items within a language, then over languages.

    Source groups and seeds are each drawn with replacement, jointly: one draw serves all languages, because they share their
    items. p = twice the smaller tail of resampled means beyond zero (with the usual + 1), at most 1.
    """
    sums, counts, observed = _group_sums(languages)
    num_groups, num_languages, num_seeds = sums.shape
    rng = np.random.default_rng(seed)
    means = np.empty(num_resamples)
    flat = sums.reshape(num_groups, -1)
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        groups = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size).astype(np.float64)
        seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size) / num_seeds
        totals = (groups @ flat).reshape(size, num_languages, num_seeds)
        drawn = groups @ counts
        with np.errstate(invalid="ignore"):  # a language of which no item was drawn is left out of that resample
            means[start : start + size] = np.nanmean(np.einsum("rls,rs->rl", totals, seeds) / drawn, axis=1)
    tail = min(np.sum(means <= 0), np.sum(means >= 0))
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(
        mean=observed,
        low=float(low),
        high=float(high),
        p=float(min(1.0, 2 * (tail + 1) / (num_resamples + 1))),
        num_items=int(counts.sum()),
        num_groups=num_groups,
        num_seeds=num_seeds,
    )


def _group_sums(languages: Mapping[str, PairedScores]) -> tuple[np.ndarray, np.ndarray, float]:
    """(G, L, S) sums of differences, (G, L) numbers of items, and the mean difference itself."""
    assert languages
    names = np.unique(np.concatenate([scores.groups.astype(str) for scores in languages.values()]))
    num_seeds = next(iter(languages.values())).first.shape[1]
    sums = np.zeros((len(names), len(languages), num_seeds))
    counts = np.zeros((len(names), len(languages)))
    observed = []
    for number, scores in enumerate(languages.values()):
        assert scores.first.shape == scores.second.shape == (len(scores.groups), num_seeds)
        difference = scores.first.astype(np.float64) - scores.second.astype(np.float64)
        rows = np.searchsorted(names, scores.groups.astype(str))
        np.add.at(sums[:, number], rows, difference)
        np.add.at(counts[:, number], rows, 1.0)
        observed.append(difference.mean())
    return sums, counts, float(np.mean(observed))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment (1979): the chance of any false claim stays below the level each is compared with."""
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
