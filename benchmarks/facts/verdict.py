"""What a run of the facts benchmark comes to: pure functions of measured rows.

The claim: asked in other languages through the stack's encoder, the LLM is right more often than where it reads them itself, of
questions whose name is not the English one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.facts.choosing import CHANCE, Choice, Rows, right
from mtllm_ds.evaluation.report.parts import Verdict
from mtllm_ds.evaluation.report.statistics import Difference, PairedScores, paired_bootstrap

ByLanguage = Mapping[str, Rows]


@dataclass(frozen=True)
class Coverage:
    """In which foreign languages of a run a stack was asked."""

    asked: Sequence[str]
    without_tag: Sequence[str]
    """its encoder has none for them"""
    left: Sequence[str]
    """still to be asked"""

    def __str__(self) -> str:
        num = len(self.asked) + len(self.without_tag) + len(self.left)
        lacking = f" (no tag for {', '.join(self.without_tag)})" if self.without_tag else ""
        return f"{len(self.asked)} of {num} languages{lacking}"


def named(rows: ByLanguage, *, own: bool) -> ByLanguage:
    """Questions whose name is the language's own, or is written as in English; languages without any are left out."""
    found = {code: [row for row in part if row["own_name"] == own] for code, part in rows.items()}
    return {code: part for code, part in found.items() if part}


def all_right(rows: Rows, choices: Mapping[str, Choice]) -> np.ndarray:
    """(N,) float64 of questions of several kinds, each by its own score, as `right` counts."""
    return np.array([right([row], choices[row["kind"]].score)[0] for row in rows], np.float64)


def accuracy(rows: ByLanguage, choices: Mapping[str, Choice]) -> Difference:
    """Mean share of right answers over languages, minus chance, with the bootstrap over countries."""
    scores = {}
    for code, own in rows.items():
        first = all_right(own, choices)[:, None]
        scores[code] = PairedScores(_countries(own), first, np.full(first.shape, CHANCE))
    return paired_bootstrap(scores)


def difference(first: ByLanguage, second: ByLanguage, choices: Mapping[str, Choice]) -> Difference:
    """`first` minus `second` in the languages of `first`, question by question, with the bootstrap over countries."""
    scores = {}
    for code, own in first.items():
        other = second[code]
        assert [row["item"] for row in own] == [row["item"] for row in other], "not the same questions"
        scores[code] = PairedScores(
            _countries(own), all_right(own, choices)[:, None], all_right(other, choices)[:, None]
        )
    return paired_bootstrap(scores)


def decide(
    shares: Mapping[str, float],
    kinds: list[str],
    ahead: Difference | None,
    coverage: Coverage | None,
    *,
    is_smoke: bool = False,
) -> Verdict:
    """The verdict.

    Args:
        shares: kind -> right answers in English on the reporting half
        ahead: the stack minus the LLM's own reading over foreign languages, of questions with names of their own
        coverage: of a stack; None where none was given
    """
    best = ", ".join(f"{kind} {share:.2f}" for kind, share in shares.items())
    if is_smoke:
        return Verdict("not judged", f"not judged: a smoke run shows that the steps work, and nothing else ({best})")
    if not kinds:
        line = f"cannot be used with this model: it knows no kind of fact clearly in English (right of four: {best})"
        return Verdict("cannot be used", line)
    known = f"in English the LLM knows {', '.join(kinds)} clearly above its floor (right of four: {best})"
    if coverage is None:
        return Verdict("no stack asked", f"no stack asked: {known}")
    if ahead is None or coverage.left:
        return Verdict("not judged", f"not judged: the stack was asked in {coverage}, start again to go on; {known}")
    gap = (
        f"{100 * ahead.mean:+.1f} points ({100 * ahead.low:+.1f} to {100 * ahead.high:+.1f}) against the LLM's own reading over "
        f"{coverage}, names as in English left out"
    )
    if ahead.low > 0:
        return Verdict("confirmed", f"confirmed: {gap}; {known}")
    return Verdict("not confirmed", f"not confirmed: {gap}; {known}")


def _countries(rows: Rows) -> np.ndarray:
    return np.array([row["country"] for row in rows])
