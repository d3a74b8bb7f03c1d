"""Which kinds of facts a language model knows, and how it is best asked: pure functions of measured rows (`asking.py`).

Forms and scores are chosen on one half of the countries, for each kind by itself: what is right most often beyond its floor. The
floor is chance, or what the same score finds without the country's name or with that of another country, where that is more: many
currencies are the euro. A kind is used if the model is clearly above the floor there. The other half is what is reported.
"""

from __future__ import annotations

from collections import Counter
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
FLOORS = {"without the name": "blind", "another's name": "another"}
"""What a row holds of the same choices behind questions that do not tell the country. The gain is nothing without the name; with
another's it is that of any name."""


@dataclass(frozen=True)
class Choice:
    """How a kind is asked and scored, and how often that was right where it was chosen."""

    kind: str
    form: str
    score: str
    num_questions: int
    share: Interval
    floors: Mapping[str, Interval]
    """`floors_of` the same questions"""

    @property
    def floor(self) -> float:
        """Chance, or the highest of the floors."""
        return max([CHANCE, *(floor.mean for floor in self.floors.values())])

    @property
    def is_known(self) -> bool:
        return self.share.low > self.floor + MARGIN


def right(rows: Rows, score: str) -> np.ndarray:
    """(N,) float64: 1 where the right choice has the most, 1 / k where it is one of k that have: logits in bfloat16 have steps."""
    found = [SCORES[score](row) for row in rows]
    return np.array(
        [(own[row["answer"]] == own.max()) / (own == own.max()).sum() for own, row in zip(found, rows, strict=True)],
        np.float64,
    )


def share_right(rows: Rows, score: str) -> Interval:
    """Of questions of one kind, with its exact binomial interval."""
    return share_interval(float(right(rows, score).sum()), len(rows), LEVEL)


def floors_of(rows: Rows, score: str) -> dict[str, Interval]:
    """Of `FLOORS`: the share of answers that are right by the same score of questions that do not tell the country."""
    return {
        name: share_right([{**row, "nll": row[column]} for row in rows], score)
        for name, column in FLOORS.items()
        if rows and all(column in row for row in rows)
    }


def share_of_commonest(rows: Rows) -> Interval:
    """Right answers of whoever takes the choice that is most often right among the other questions; ties as in `right`."""
    often = Counter(row["choices"][row["answer"]] for row in rows)
    told = [
        {
            "answer": row["answer"], "tokens": [1] * len(row["choices"]),
            "nll": [float(place == row["answer"]) - often[choice] for place, choice in enumerate(row["choices"])],
        }
        for row in rows
    ]  # fmt: skip
    return share_right(told, "per token")


def choose(rows: Rows) -> dict[str, Choice]:
    """kind -> the form and score that are right most often beyond their floor; the first of several."""
    found = {}
    for kind in KINDS:
        tried = [
            Choice(kind, form, score, len(own), share_right(own, score), floors_of(own, score))
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


def kinds_used(choices: Mapping[str, Choice]) -> list[str]:
    """Kinds that are known on the choosing half."""
    return [kind for kind, choice in choices.items() if choice.is_known]
