"""The verdict of the SDRRL benchmark: pure functions of measured sums.

The claim (Zhang et al., ACL 2024): a model that learns its own English answers in other languages tells text of people in these
languages better than before, answers in them, and loses little of its English.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.intervals import Interval, mean_ratio
from benchmarks.sdrrl.collect import Scores, Sums
from benchmarks.sdrrl.evaluate import READINGS
from benchmarks.sdrrl.rows import SDRRL, UNTOUCHED
from mtllm_ds.evaluation.report.parts import Verdict
from mtllm_ds.languages import ENGLISH


@dataclass(frozen=True)
class Rules:
    """Thresholds, set before any row of the `cpu` budget was trained."""

    level: float = 0.05
    """of each test"""
    most_english_loss: float = 0.02
    """of the untouched model's nats per token"""


@dataclass(frozen=True)
class Change:
    """A row minus another one."""

    nll: Mapping[str, Interval]
    """By reading: nats per token on text of people, mean over the languages learnt"""
    fidelity: Interval
    """Share of the answers that do not loop and whose likeliest language is that of their question, mean over those learnt"""
    no_other: Interval
    """The same of those that are in no other language beyond doubt"""
    english: Mapping[str, Interval]
    """By reading: share of the other's nats per token; one side at `Rules.level`"""


def change(row: Scores, other: Scores, languages: Sequence[str], rules: Rules) -> Change:
    """A row minus another one of the same seeds, or minus the untouched model, which stands beside every seed."""
    nll = {name: _difference(row.of(languages, name), other.of(languages, name), rules.level) for name in READINGS}
    fidelity = _difference(_learnt(row.faithful, languages), _learnt(other.faithful, languages), rules.level)
    no_other = _difference(_learnt(row.no_other, languages), _learnt(other.no_other, languages), rules.level)
    english = {}
    for name in READINGS:
        found = _difference(row.of([ENGLISH], name), other.of([ENGLISH], name), 2 * rules.level)
        scale = float(other.nll[ENGLISH][name].means.mean())
        english[name] = Interval(found.mean / scale, found.low / scale, found.high / scale)
    return Change(nll, fidelity, no_other, english)


def _learnt(sums: Mapping[str, Sums], languages: Sequence[str]) -> dict[str, Sums]:
    return {code: sums[code] for code in languages}


def _difference(own: Mapping[str, Sums], other: Mapping[str, Sums], level: float) -> Interval:
    gaps = {code: sums.values - other[code].values for code, sums in own.items()}
    tokens = {code: sums.num_tokens for code, sums in own.items()}
    return mean_ratio(gaps, tokens, {code: sums.names for code, sums in own.items()}, level)


def nats(interval: Interval) -> str:
    return _shown(interval, "{:+.3f}")


def percent(interval: Interval) -> str:
    """Of a relative change."""
    return _shown(_hundredfold(interval), "{:+.1f}%")


def points(interval: Interval) -> str:
    """Of a difference of shares, in percentage points."""
    return _shown(_hundredfold(interval), "{:+.1f}")


def _hundredfold(interval: Interval) -> Interval:
    return Interval(100 * interval.mean, 100 * interval.low, 100 * interval.high)


def _shown(interval: Interval, form: str) -> str:
    if not np.isfinite(interval.low):
        return f"{form.format(interval.mean)} (one seed)"
    return f"{form.format(interval.mean)} ({form.format(interval.low)} to {form.format(interval.high)})"


def decide(
    scores: Mapping[str, Scores], languages: Sequence[str], num_seeds: int, rules: Rules, *, is_smoke: bool = False
) -> Verdict:
    """The verdict over SDRRL's own row, `num_seeds` trainings of it."""
    found = change(scores[SDRRL], scores[UNTOUCHED], languages, rules)
    told = [f"text of people, {title}: {nats(found.nll[name])} nats per token" for name, title in READINGS.items()]
    told += [f"answers likeliest in the language asked: {points(found.fidelity)} points"]
    told += [f"answers in no other language beyond doubt: {points(found.no_other)} points"]
    told += [f"English, {title}: {percent(found.english[name])} nats" for name, title in READINGS.items()]
    figures = f"SDRRL minus untouched; {'; '.join(told)}"
    if is_smoke:
        return Verdict("not judged", f"not judged: a smoke run shows that the steps work, and nothing else ({figures})")
    if len(scores[SDRRL].seeds) < num_seeds:
        done = len(scores[SDRRL].seeds)
        return Verdict("not judged", f"not judged: {done} of {num_seeds} seeds of SDRRL are done ({figures})")
    against = [
        f"text of people is not better told, {READINGS[name]}" for name, own in found.nll.items() if own.high >= 0
    ]
    if found.fidelity.low <= 0:
        against.append("answers are not more often likeliest in the language asked")
    against += [
        f"English is not shown to lose at most {rules.most_english_loss:.0%}, {READINGS[name]}"
        for name, own in found.english.items()
        if own.high > rules.most_english_loss
    ]
    if against:
        return Verdict("not confirmed", f"not confirmed: {'; '.join(against)} ({figures})")
    return Verdict(
        "confirmed",
        f"confirmed: better on text of people, answers more often likeliest in the language asked, English kept ({figures})",
    )
