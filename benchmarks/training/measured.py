"""From rounds to figures: medians with intervals, and ratios round by round."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.intervals import Interval, median_interval
from benchmarks.training.rounds import WARMUP

LEVEL = 0.05
"""Outside of all intervals together"""


@dataclass(frozen=True)
class Measured:
    """One variant over the rounds that count."""

    seconds: Interval
    """Of a step: the median"""
    documents_per_second: float
    tokens_per_second: float
    """The LLM's tokens of both passes' documents, each document once"""
    peak_bytes: int
    over_ours: Interval | None
    """Its seconds over ours in the same round: the median; None of ours, and where ours did not run beside it"""


def read_rounds(path: Path) -> dict[str, list[dict[str, float]]]:
    """By variant: its rounds, in order, warm-up left out."""
    found: dict[str, list[dict[str, float]]] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            name = row.pop("variant")
            if int(row["round"]) >= WARMUP:
                found.setdefault(name, []).append({key: float(value) for key, value in row.items()})
    return found


def figures_of(rounds: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Measured]:
    """By variant, in the order in which they stand."""
    ours = {row["round"]: row["seconds"] for row in rounds.get("ours", ())}
    found = {}
    for name, rows in rounds.items():
        ratios = [row["seconds"] / ours[row["round"]] for row in rows if row["round"] in ours]
        found[name] = Measured(
            seconds=median_interval([row["seconds"] for row in rows], LEVEL),
            documents_per_second=statistics.median(row["documents"] / row["seconds"] for row in rows),
            tokens_per_second=statistics.median(row["llm_tokens"] / row["seconds"] for row in rows),
            peak_bytes=int(max(row["peak_bytes"] for row in rows)),
            over_ours=median_interval(ratios, LEVEL) if name != "ours" and ratios else None,
        )
    return found
