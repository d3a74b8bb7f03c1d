"""What a run has measured so far, by row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.sdrrl.evaluate import READINGS
from benchmarks.sdrrl.plan import Plan
from benchmarks.sdrrl.rows import BY_NAME, seeds_of
from mtllm_ds.languages import ENGLISH


@dataclass(frozen=True)
class Sums:
    """Of L held-out texts, or questions, and S seeds."""

    names: np.ndarray
    """(L,) str: texts of one name are translations of each other"""
    num_tokens: np.ndarray
    """(L,) int64; of questions 1"""
    values: np.ndarray
    """(L, S) float64: nats, or 1 where an answer is in the language of its question"""

    @property
    def means(self) -> np.ndarray:
        """(S,) per token, or per question"""
        return self.values.sum(0) / self.num_tokens.sum()


@dataclass(frozen=True)
class Scores:
    """One row of the table."""

    seeds: tuple[int, ...]
    nll: Mapping[str, Mapping[str, Sums]]
    """language -> reading"""
    kl: Sums
    """On English continuations, from the untouched model"""
    faithful: Mapping[str, Sums]
    """Answers whose likeliest language is that of the question, and which do not loop; by language"""
    no_other: Mapping[str, Sums]
    """Those that are in no other language beyond doubt, and do not loop"""
    figures: Mapping[str, Mapping[str, float]]
    """Of answers, by language, mean over seeds"""

    def of(self, languages: Sequence[str], reading: str) -> dict[str, Sums]:
        """One reading's sums, by language."""
        return {code: self.nll[code][reading] for code in languages}

    def only(self, seeds: tuple[int, ...]) -> Scores:
        """Sums of these seeds alone."""
        places = [self.seeds.index(seed) for seed in seeds]

        def cut(sums: Sums) -> Sums:
            return Sums(sums.names, sums.num_tokens, sums.values[:, places])

        nll = {code: {name: cut(sums) for name, sums in own.items()} for code, own in self.nll.items()}
        faithful, no_other = ({code: cut(sums) for code, sums in own.items()} for own in (self.faithful, self.no_other))
        return Scores(seeds, nll, cut(self.kl), faithful, no_other, self.figures)


def row_scores(plan: Plan) -> dict[str, Scores]:
    """Of every row that has a score, with the seeds that have one."""
    found = {}
    for name in plan.budget.rows:
        wanted = seeds_of(BY_NAME[name], plan.budget.seeds)
        seeds = tuple(seed for seed in wanted if (plan.found(name, seed) / "found.json").is_file())
        if seeds:
            read = [json.loads((plan.found(name, seed) / "found.json").read_text(encoding="utf-8")) for seed in seeds]
            found[name] = _scores(seeds, read, (ENGLISH, *plan.budget.languages))
    return found


def missing_steps(plan: Plan, scores: Mapping[str, Scores]) -> list[str]:
    """ROW/seed-N of the scores that are still to come."""
    return [
        f"{name}/seed-{seed}"
        for name in plan.budget.rows
        for seed in seeds_of(BY_NAME[name], plan.budget.seeds)
        if name not in scores or seed not in scores[name].seeds
    ]


def _scores(seeds: tuple[int, ...], read: list[dict[str, Any]], languages: tuple[str, ...]) -> Scores:
    def sums(code: str, reading: str, key: str = "nll") -> Sums:
        own = [one["human"][code] for one in read]
        values = np.stack([np.array(one[reading][key]) for one in own], axis=1)
        return Sums(np.array(own[0]["names"]), np.array(own[0][reading]["num_tokens"]), values)

    def answers(code: str, key: str) -> Sums:
        own = [one["answers"][code] for one in read]
        values = np.stack([np.array(one[key]) for one in own], axis=1)
        return Sums(np.array(own[0]["names"]), np.ones(len(values)), values)

    figures = {
        code: {
            key: float(np.mean([one["answers"][code]["figures"][key] for one in read]))
            for key in read[0]["answers"][code]["figures"]
        }
        for code in languages
    }
    return Scores(
        seeds,
        {code: {reading: sums(code, reading) for reading in READINGS} for code in languages},
        sums(ENGLISH, "continuation", "kl"),
        {code: answers(code, "faithful") for code in languages},
        {code: answers(code, "no_other") for code in languages},
        figures,
    )
