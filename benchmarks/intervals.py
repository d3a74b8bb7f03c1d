"""Intervals: of a mean difference between two kinds of trained models, over seeds and texts; of a median; of a share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, binom
from scipy.stats import t as student_t


@dataclass(frozen=True)
class Interval:
    """A mean difference, in nats per token where nothing else is said, a median or a share, and the ends of its interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} nats ({self.low:+.3f} to {self.high:+.3f})"


def mean_ratio(
    gaps: Mapping[str, np.ndarray], tokens: Mapping[str, np.ndarray], names: Mapping[str, np.ndarray], level: float
) -> Interval:
    """Sums over tokens as a mean per token, mean over languages; the interval leaves `level` outside, half on either side.

    Args:
        gaps: (L, S) of each language: differences of sums, by held-out text and seed
        tokens: (L,) of each language
        names: (L,) str of each language: texts of one name are drawn together, in whatever languages

    Seeds and texts are samples, languages are fixed: nothing is said of others. The squared standard error is that of the mean over
    seeds plus that of the mean over texts; the quantile is Student's with a degree of freedom fewer than there are seeds. With one
    seed the interval has no ends. Means per token are ratios of sums, whose error is linearised.
    """
    by_seed = np.mean([gap.sum(0) / tokens[code].sum() for code, gap in gaps.items()], axis=0)
    mean, num_seeds = float(by_seed.mean()), len(by_seed)
    if num_seeds == 1:
        return Interval(mean, -np.inf, np.inf)
    residuals = [
        (gap.mean(1) - gap.sum(0).mean() / tokens[code].sum() * tokens[code]) / tokens[code].sum()
        for code, gap in gaps.items()
    ]
    together = np.concatenate([names[code] for code in gaps])
    variance = by_seed.var(ddof=1) / num_seeds + _variance_of_sum(np.concatenate(residuals) / len(gaps), together)
    half = float(student_t.ppf(1 - level / 2, num_seeds - 1) * np.sqrt(variance))
    return Interval(mean, mean - half, mean + half)


def median_interval(values: Sequence[float], level: float) -> Interval:
    """The median, and the values between which that of all lies with probability 1 - `level` or more, whatever their distribution:
    how many of the sample lie below it is binomial. Where there are too few values for that the interval has no ends."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    below = int(binom.ppf(level / 2, len(ordered), 0.5)) - 1
    if below < 0:
        return Interval(float(np.median(ordered)), -np.inf, np.inf)
    return Interval(float(np.median(ordered)), float(ordered[below]), float(ordered[-1 - below]))


def share_interval(num_right: float, num: int, level: float) -> Interval:
    """A share of independent answers, between the ends of Clopper and Pearson's exact interval; a part of an answer counts as one
    between whole numbers (beta quantiles)."""
    low = float(beta.ppf(level / 2, num_right, num - num_right + 1)) if num_right > 0 else 0.0
    high = float(beta.ppf(1 - level / 2, num_right + 1, num - num_right)) if num_right < num else 1.0
    return Interval(num_right / num, low, high)


def _variance_of_sum(residuals: np.ndarray, names: np.ndarray) -> float:
    """Of a sum whose terms of one name are drawn together."""
    _, place = np.unique(names, return_inverse=True)
    sums = np.bincount(place, residuals)
    return float(len(sums) / max(1, len(sums) - 1) * (sums**2).sum())
