"""The verdict of the balanced benchmark: confirmed, not confirmed, or not judged. Pure functions of measured sums.

The claim (Limisiewicz, Malkin and Stanovsky, SIGTYP 2023): on the same amount of text, a student of balanced text and monolingual
teachers is better on low-resource languages than one of all text without teachers, and as good on high-resource ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.balanced.collect import Scores, TestLines
from mtllm_ds.evaluation.report.parts import Verdict


@dataclass(frozen=True)
class Rules:
    """Thresholds, set before any student of the `cpu` budget was trained."""

    margin: float = 0.05
    """nats per token by which high-resource languages may differ and count as equal"""
    level: float = 0.05
    """of each test"""
    least_gain: float = 1.0
    """nats per token by which every student must beat the unigram model, or nothing is judged"""


@dataclass(frozen=True)
class Interval:
    """A mean difference in nats per token with the bootstrap's quantiles."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} nats ({self.low:+.3f} to {self.high:+.3f})"


def nll_of(lines: TestLines) -> np.ndarray:
    """(S,) nats per token of each seed."""
    return lines.nll.sum(0) / lines.num_tokens.sum()


def unigram_of(lines: TestLines) -> float:
    """Nats per token of the unigram model."""
    return float(lines.unigram.sum() / lines.num_tokens.sum())


def difference(
    first: Mapping[str, TestLines],
    second: Mapping[str, TestLines],
    languages: Sequence[str],
    level: float,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """`first` minus `second`, mean over languages, with the quantiles that leave `level` outside, half on either side.

    Lines of each language, and seeds of both students jointly, are drawn with replacement. Nats per token are a ratio of sums, so
    each resample has its own number of tokens.
    """  # fmt: skip
    rng = np.random.default_rng(seed)
    num_seeds = next(iter(first.values())).nll.shape[1]
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), num_resamples) / num_seeds
    resampled = np.zeros(num_resamples)
    observed = []
    for code in languages:
        gap = first[code].nll - second[code].nll
        tokens = first[code].num_tokens
        observed.append(gap.sum(0).mean() / tokens.sum())
        drawn = rng.multinomial(len(tokens), np.full(len(tokens), 1 / len(tokens)), num_resamples)
        resampled += ((drawn @ gap) * seeds).sum(1) / (drawn @ tokens) / len(languages)
    low, high = np.quantile(resampled, [level / 2, 1 - level / 2])
    return Interval(float(np.mean(observed)), float(low), float(high))


def gate_failures(scores: Scores, groups: Mapping[str, Sequence[str]], rules: Rules) -> list[str]:
    """Students that do not beat the unigram model by enough, in the mean of a group of languages; a line a failure."""
    found = []
    for name, languages in scores.items():
        for group, codes in groups.items():
            gains = np.mean([unigram_of(languages[code]) - nll_of(languages[code]) for code in codes], axis=0)
            if gains.min() < rules.least_gain:
                found.append(f"{name} beats the unigram model by {gains.min():.2f} nats on {group}-resource languages")
    return found


def decide(failures: Sequence[str], low: Interval, high: Interval, rules: Rules, *, is_smoke: bool = False) -> Verdict:
    """The verdict.

    Args:
        low: the claimed student minus its rival on low-resource languages, at `rules.level` two-sided
        high: the same on high-resource ones, at twice that level: both one-sided tests of equivalence (TOST) at `rules.level`
    """
    figures = f"low-resource {low}, high-resource {high}"
    if is_smoke:
        return Verdict("not judged", f"not judged: a smoke run shows that the steps work, and nothing else ({figures})")
    if failures:
        more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
        wanted = f"{rules.least_gain:g} nat is asked of every student"
        return Verdict("not judged", f"not judged: {failures[0]}{more}, {wanted} ({figures})")
    against = []
    if low.high >= 0:
        worse = "worse" if low.low > 0 else "not better beyond chance"
        against.append(f"low-resource languages are {worse}")
    if not (-rules.margin < high.low and high.high < rules.margin):
        if high.high < 0:
            against.append("high-resource languages are better, not equal")
        elif high.low > 0:
            against.append("high-resource languages are worse")
        else:
            against.append(f"high-resource languages are not shown to be equal within {rules.margin:g} nats")
    if against:
        return Verdict("not confirmed", f"not confirmed: {' and '.join(against)} ({figures})")
    return Verdict("confirmed", f"confirmed: better on low-resource languages, equal on others ({figures})")
