"""Which kinds of facts a language model knows, and how it is best asked: pure functions of measured rows (`asking.py`).

Forms and scores are chosen on one half of the countries, for each kind by itself: what is right most often beyond its floor. The
floor is chance, or what the same score finds without the country's name, where that is more: many currencies are the euro. A kind
is used if the model is clearly above the floor there, and above it on the other half too, which is the one that is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.facts.items import NUM_CHOICES
from benchmarks.facts.templates import KINDS
from benchmarks.intervals import Interval, share_interval

CHANCE = 1 / NUM_CHOICES
MARGIN = 0.10
"""By which the lower end of the 95% interval lies above the floor where forms are chosen"""
LEVEL = 0.05
Rows = Sequence[Mapping]
SCORES: dict[str, Callable[[Mapping], np.ndarray]] = {
    "per token": lambda row: -np.array(row["nll"]) / np.array(row["tokens"]),
    "per byte": lambda row: -np.array(row["nll"]) / np.array(row["bytes"]),
    "gain": lambda row: np.array(row["blind"]) - np.array(row["nll"]),
}
"""What the choice with the most of it is the answer: log-probability per token or per UTF-8 byte, or by how much the name in the
question raises the log-probability of the whole choice, which needs no division since both are of the same tokens."""


@dataclass(frozen=True)
class Choice:
    """How a kind is asked and scored, and how often that was right where it was chosen."""

    kind: str
    form: str
    score: str
    num_questions: int
    share: Interval
    floor: float
    """`floor_of` of the same questions"""

    @property
    def is_known(self) -> bool:
        return self.share.low > self.floor + MARGIN


def right(rows: Rows, score: str) -> np.ndarray:
    """(N,) bool: whether the right choice has more than each other."""
    found = [SCORES[score](row) for row in rows]
    return np.array(
        [own[row["answer"]] > np.delete(own, row["answer"]).max() for own, row in zip(found, rows, strict=True)], bool
    )


def share_right(rows: Rows, score: str) -> Interval:
    """Of questions of one kind, with its exact binomial interval."""
    return share_interval(int(right(rows, score).sum()), len(rows), LEVEL)


def floor_of(rows: Rows, score: str) -> float:
    """Chance, or the share of answers that are right by the same score behind dots in place of the name."""
    return max(CHANCE, float(right([{**row, "nll": row["blind"]} for row in rows], score).mean()))


def choose(rows: Rows) -> dict[str, Choice]:
    """kind -> the form and score that are right most often beyond their floor; the first of several."""
    found = {}
    for kind in KINDS:
        tried = [
            Choice(kind, form, score, len(own), share_right(own, score), floor_of(own, score))
            for form, own in by_form(rows, kind).items()
            for score in SCORES
        ]
        if tried:
            found[kind] = max(tried, key=lambda choice: choice.share.mean - choice.floor)
    return found


def by_form(rows: Rows, kind: str) -> dict[str, Rows]:
    """Rows of a kind by the form that they were asked in."""
    own = [row for row in rows if row["kind"] == kind]
    return {form: [row for row in own if row["form"] == form] for form in dict.fromkeys(row["form"] for row in own)}


def kinds_used(choices: Mapping[str, Choice], english: Rows) -> list[str]:
    """Kinds that are known on the choosing half, and above their floor in `english`, the rows of the reporting half."""
    return [kind for kind, choice in choices.items() if choice.is_known and _is_confirmed(choice, english)]


def _is_confirmed(choice: Choice, english: Rows) -> bool:
    own = [row for row in english if row["kind"] == choice.kind]
    return share_right(own, choice.score).low > floor_of(own, choice.score)
