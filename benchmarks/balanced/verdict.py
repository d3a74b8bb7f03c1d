"""The verdict of the balanced benchmark: confirmed, not confirmed, or not judged. Pure functions of measured sums.

The claim (Limisiewicz, Malkin and Stanovsky, SIGTYP 2023): on the same amount of text, a student of balanced text and monolingual
teachers is better on low-resource languages than one of all text without teachers, and as good on high-resource ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.balanced.collect import Scores, TestLines
from benchmarks.intervals import Interval, mean_ratio
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
    token_margin: float = 0.02
    """of the tokens that students have read, by which they may differ, or nothing is judged"""


def nll_of(lines: TestLines) -> np.ndarray:
    """(S,) nats per token of each seed."""
    return lines.nll.sum(0) / lines.num_tokens.sum()


def unigram_of(lines: TestLines) -> float:
    """Nats per token of the unigram model."""
    return float(lines.unigram.sum() / lines.num_tokens.sum())


def difference(
    first: Mapping[str, TestLines], second: Mapping[str, TestLines], languages: Sequence[str], level: float
) -> Interval:
    """`first` minus `second` in nats per token, mean over languages, over seeds and English texts (`mean_ratio`)."""
    gaps = {code: first[code].nll - second[code].nll for code in languages}
    tokens = {code: first[code].num_tokens for code in languages}
    return mean_ratio(gaps, tokens, {code: first[code].english for code in languages}, level)


def gate_failures(scores: Scores, groups: Mapping[str, Sequence[str]], rules: Rules) -> list[str]:
    """Students that do not beat the unigram model by enough, in the mean of a group of languages; a line a failure."""
    found = []
    for name, languages in scores.items():
        for group, codes in groups.items():
            gains = np.mean([unigram_of(languages[code]) - nll_of(languages[code]) for code in codes], axis=0)
            if gains.min() < rules.least_gain:
                found.append(
                    f"{name} beats the unigram model by {gains.min():.2f} nats on {group}-resource languages, "
                    f"{rules.least_gain:g} is asked of every student"
                )
    return found


def unequal_reading(tokens: Mapping[str, np.ndarray], rules: Rules) -> list[str]:
    """A line where a student has read more tokens than another by too much; `tokens` are (S,) of each student, by name."""
    totals = {name: float(own.mean()) for name, own in tokens.items()}
    most, least = max(totals, key=totals.__getitem__), min(totals, key=totals.__getitem__)
    if totals[most] <= totals[least] * (1 + rules.token_margin):
        return []
    more = totals[most] / totals[least] - 1
    return [f"{most} has read {more:.1%} more tokens than {least}, at most {rules.token_margin:.0%} are fair"]


def decide(
    failures: Sequence[str],
    low: Interval,
    high: Interval,
    others: Mapping[str, Interval],
    rules: Rules,
    *,
    is_smoke: bool = False,
) -> Verdict:
    """The verdict.

    Args:
        failures: why nothing can be judged
        low: the claimed student minus its rival on low-resource languages, at `rules.level` two-sided
        high: the same on high-resource ones, at twice that level: both one-sided tests of equivalence (TOST) at `rules.level`
        others: the claimed student minus each of the others (one is `balanced`) on low-resource languages
    """
    figures = f"low-resource {low}, high-resource {high}; low-resource, minus "
    figures += ", minus ".join(f"{name} {own}" for name, own in others.items())
    if is_smoke:
        return Verdict("not judged", f"not judged: a smoke run shows that the steps work, and nothing else ({figures})")
    if failures:
        more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
        return Verdict("not judged", f"not judged: {failures[0]}{more} ({figures})")
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
    cause = "" if others["balanced"].high < 0 else " by balancing, not by teachers"
    return Verdict("confirmed", f"confirmed{cause}: better on low-resource languages, equal on others ({figures})")
