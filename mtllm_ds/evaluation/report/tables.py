"""Tables over languages and systems, computed from predictions alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.answers.predictions import Predictions
from mtllm_ds.evaluation.report import statistics
from mtllm_ds.evaluation.report.statistics import Difference, PairedScores
from mtllm_ds.languages import ENGLISH

FLOOR, CEILING = "llm_direct", "english_originals"
"""The tuned LLM reading foreign text itself, and reading the English originals: between them lies the gap to close."""


def competes(system: str) -> bool:
    """Systems that read the English originals are a ceiling, not a rival."""
    return not system.startswith(CEILING)


@dataclass(frozen=True)
class Cell:
    """One system on one language: means over seeds."""

    accuracy: float
    macro_f1: float
    spread: float
    """standard deviation of the accuracy over seeds; 0 for one seed"""
    num_items: int
    num_seeds: int


@dataclass(frozen=True)
class Table:
    """One setting of one task. `cells[language][system]`; a system may lack a language."""

    task: str
    setting: str
    systems: tuple[str, ...]
    languages: tuple[str, ...]
    starred: frozenset[str]
    """read with another language's tag: not in means"""
    cells: dict[str, dict[str, Cell]]

    @property
    def mean_languages(self) -> tuple[str, ...]:
        """Languages that means are over: neither English nor starred."""
        return tuple(code for code in self.languages if code != ENGLISH and code not in self.starred)

    def accuracies(self, system: str, languages: Sequence[str] | None = None) -> list[float] | None:
        """Accuracies of a system, in order (default: the languages of means); None if it lacks one of them."""
        chosen = self.mean_languages if languages is None else languages
        if not chosen or any(system not in self.cells.get(code, {}) for code in chosen):
            return None
        return [self.cells[code][system].accuracy for code in chosen]

    def mean(self, system: str) -> float:
        """Mean accuracy over `mean_languages`; NaN if the system lacks one, so that all means are over the same languages."""
        values = self.accuracies(system)
        return float("nan") if values is None else float(np.mean(values))

    def mean_macro_f1(self, system: str) -> float:
        """Mean macro-F1 over `mean_languages`; NaN as above."""
        if self.accuracies(system) is None:
            return float("nan")
        return float(np.mean([self.cells[code][system].macro_f1 for code in self.mean_languages]))

    def best(self, language: str) -> float:
        """Highest accuracy on a language; the ceiling does not compete."""
        return max(
            (cell.accuracy for name, cell in self.cells[language].items() if name != CEILING), default=float("nan")
        )

    def best_mean(self) -> str | None:
        """The system of the highest mean, ceilings aside; None if no mean is defined."""
        means = {name: self.mean(name) for name in self.systems if competes(name)}
        defined = {name: mean for name, mean in means.items() if not np.isnan(mean)}
        return max(defined, key=lambda name: defined[name]) if defined else None

    def gap_closed(self, system: str, languages: Sequence[str] | None = None) -> float:
        """Share of the distance from `FLOOR` to `CEILING` that a system covers; NaN where one of the three is missing."""
        values = [self.accuracies(name, languages) for name in (system, FLOOR, CEILING)]
        if any(value is None for value in values):
            return float("nan")
        return statistics.gap_closed(*values)  # type: ignore[arg-type]

    def english_kept(self, system: str) -> float:
        """The system's accuracy on English text over that of the tuned LLM; NaN where one is missing."""
        row = self.cells.get(ENGLISH, {})
        if system not in row or FLOOR not in row:
            return float("nan")
        return statistics.english_kept(row[system].accuracy, row[FLOOR].accuracy)


def build_tables(predictions: Predictions) -> list[Table]:
    """A table for each setting, `plain` first; languages alphabetical with English first, systems as they first appear."""
    settings = sorted(set(predictions.setting), key=lambda name: (name != "plain", name))
    return [_table(predictions.where(setting=setting), setting) for setting in settings]


def _table(predictions: Predictions, setting: str) -> Table:
    systems = tuple(dict.fromkeys(predictions.system))
    languages = tuple(sorted(set(predictions.language), key=lambda code: (code != ENGLISH, code)))
    cells: dict[str, dict[str, Cell]] = {code: {} for code in languages}
    for language in languages:
        of_language = predictions.where(language=language)
        for system in dict.fromkeys(of_language.system):
            cells[language][system] = _cell(of_language.where(system=system))
    facts = predictions.facts
    starred = frozenset(code for code in languages if code in facts.tag_proxies)
    return Table(facts.task, setting, systems, languages, starred, cells)


def _cell(predictions: Predictions) -> Cell:
    seeds = np.unique(predictions.seed)
    parts = [predictions.where(seed=int(seed)) for seed in seeds]
    accuracies = [statistics.accuracy(part.label, part.prediction) for part in parts]
    return Cell(
        accuracy=float(np.mean(accuracies)),
        macro_f1=float(np.mean([statistics.macro_f1(part.label, part.prediction) for part in parts])),
        spread=float(np.std(accuracies, ddof=1)) if len(seeds) > 1 else 0.0,
        num_items=len(parts[0]),
        num_seeds=len(seeds),
    )


def paired_scores(predictions: Predictions, first: str, second: str, language: str) -> PairedScores:
    """Two systems on one language of one setting, item by item and seed by seed.

    A system of one seed (nothing in it is random) is paired with every seed of the other. Raises `UserError` if the two did not
    answer the same items, or have different seeds.
    """
    left, right = (_score_matrix(predictions.where(language=language, system=name)) for name in (first, second))
    if left.ids.tolist() != right.ids.tolist():
        raise UserError(f"{first} and {second}: answered different items of {language}; run both on the same items")
    if left.seeds.tolist() != right.seeds.tolist() and 1 not in (len(left.seeds), len(right.seeds)):
        raise UserError(f"{first} and {second}: have different seeds in {language}; run both with the same seeds")
    width = max(len(left.seeds), len(right.seeds))
    return PairedScores(
        left.groups,
        np.broadcast_to(left.scores, (len(left.ids), width)),
        np.broadcast_to(right.scores, (len(left.ids), width)),
    )


@dataclass(frozen=True)
class _ScoreMatrix:
    ids: np.ndarray
    groups: np.ndarray
    seeds: np.ndarray
    scores: np.ndarray
    """(n, S) 1 right, 0 wrong"""


def _score_matrix(predictions: Predictions) -> _ScoreMatrix:
    ids, first_row, item = np.unique(predictions.id.astype(str), return_index=True, return_inverse=True)
    seeds, seed = np.unique(predictions.seed, return_inverse=True)
    scores = np.full((len(ids), len(seeds)), np.nan)
    scores[item, seed] = predictions.correct
    if np.isnan(scores).any():
        raise UserError("--predictions: some seed lacks some item; run that seed again")
    return _ScoreMatrix(ids, predictions.group[first_row], seeds, scores)


def compare(
    predictions: Predictions,
    first: str,
    second: str,
    setting: str,
    languages: Sequence[str],
    num_resamples: int = 10_000,
) -> Difference:
    """Paired bootstrap of `first - second` over languages, source groups and seeds jointly."""
    chosen = predictions.where(setting=setting)
    scores = {code: paired_scores(chosen, first, second, code) for code in languages}
    return statistics.paired_bootstrap(scores, num_resamples)


def compare_each(
    predictions: Predictions,
    first: str,
    second: str,
    setting: str,
    languages: Sequence[str],
    num_resamples: int = 10_000,
) -> dict[str, tuple[Difference, float]]:
    """A language: its own difference, and its p-value after Holm's correction over the languages."""
    found = {code: compare(predictions, first, second, setting, [code], num_resamples) for code in languages}
    adjusted = statistics.holm({code: difference.p for code, difference in found.items()})
    return {code: (found[code], adjusted[code]) for code in languages}


def flat_summary(tables: Sequence[Table]) -> dict[str, float]:
    """`summary.json`: one flat mapping, such as `copy_masked/mean/mtllm_stage2` -> accuracy. Undefined figures are left out."""
    summary: dict[str, float] = {}
    for table in tables:
        summary[f"{table.setting}/num_languages"] = len(table.mean_languages)
        for system in table.systems:
            figures = {
                "mean": table.mean(system),
                "macro_f1": table.mean_macro_f1(system),
                "gap_closed": table.gap_closed(system),
                "english_kept": table.english_kept(system),
            }
            summary |= {
                f"{table.setting}/{name}/{system}": value for name, value in figures.items() if not np.isnan(value)
            }
            for code in table.languages:
                if system in table.cells[code]:
                    summary[f"{table.setting}/{code}/{system}"] = table.cells[code][system].accuracy
    return summary
