"""What a run has measured: sums a test line of every student and teacher, and answers of the heads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
from pyarrow import parquet

from benchmarks.balanced.plan import Plan
from benchmarks.balanced.students import STUDENTS, Student
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.evaluation.answers.predictions import read_predictions
from mtllm_ds.evaluation.items.masking import SETTINGS
from mtllm_ds.observe.sinks import read_rows
from mtllm_ds.observe.teachers import Knowledge, Known, knowledge_of
from mtllm_ds.transfer_sets.hugging_face_folder import MARK


@dataclass(frozen=True)
class TestLines:
    """Sums over the tokens of each test line of a language: L lines, S seeds."""

    num_tokens: np.ndarray
    """(L,) int64"""
    num_bytes: np.ndarray
    """(L,) int64"""
    nll: np.ndarray
    """(L, S) float64 nats"""
    reciprocal_rank: np.ndarray
    """(L, S) float64"""
    unigram: np.ndarray
    """(L,) float64 nats of the unigram model of the language's training text"""
    english: np.ndarray
    """(L,) str: hash of the English line that it translates, or is"""


Scores = Mapping[str, Mapping[str, TestLines]]
"""student -> language -> its lines"""


def student_scores(plan: Plan) -> Scores:
    """Of all students and seeds."""
    english = {code: _english(plan, code) for code in plan.budget.languages}
    found = {}
    for student in STUDENTS:
        tables = [_lines(plan.scores(plan.place.student(student.name, seed))) for seed in plan.budget.seeds]
        found[student.name] = {code: _of_language(tables, code, english[code]) for code in plan.budget.languages}
    return found


def teacher_nll(plan: Plan, language: str, data: str) -> float:
    """Nats per token of a language's teachers on its test text, mean over seeds."""
    steps = [plan.place.teacher(language, plan.teacher_data(language, data), seed) for seed in plan.budget.seeds]
    figures = [json.loads((plan.scores(step) / "summary.json").read_text(encoding="utf-8")) for step in steps]
    return float(np.mean([own[f"model/{language}/nll"] for own in figures]))


def transfer_accuracy(plan: Plan) -> dict[str, dict[str, dict[str, float]]]:
    """setting -> student -> language -> accuracy of its heads, mean over the seeds that are done; students without are left out."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for student in STUDENTS:
        folders = [plan.folder(plan.transfer(student.name, seed)) for seed in plan.budget.seeds]
        files = [path for folder in folders if (path := folder / "answers" / "predictions.parquet").is_file()]
        if not files:
            continue
        answers = read_predictions(files)
        for setting in SETTINGS:
            own = {code: answers.where(language=code, setting=setting) for code in plan.task_languages()}
            if all(map(len, own.values())):
                accuracies = {code: float(given.correct.mean()) for code, given in own.items()}
                found.setdefault(setting, {})[student.name] = accuracies
    return found


def student_knowledge(plan: Plan, student: str) -> Knowledge | None:
    """What a student's validations say of its teachers, mean over seeds; None of one without teachers."""
    runs = [plan.place.run(plan.place.student(student, seed)) for seed in plan.budget.seeds]
    found = [knowledge_of(read_rows(run / "metrics.jsonl")) for run in runs]
    seeds = [own for own in found if own is not None]
    if not seeds:
        return None
    means = {name: Known(*np.mean([astuple(own.of[name]) for own in seeds], axis=0).tolist()) for name in seeds[0].of}
    return replace(seeds[0], of=means)


@dataclass(frozen=True)
class Reading:
    """What a student has read up to the step that was exported."""

    tokens: np.ndarray
    """(S,) of each seed: its lines of each language, as long as that language's are in the mean"""
    passes: Mapping[str, float]
    """by language: how often each of its lines was read, mean over seeds"""


def reading_of(plan: Plan, student: Student) -> Reading:
    """From the log of its training. Rows stand every so many steps: the nearest one is scaled, as each step reads as many lines."""
    statistics = Manifest.load(str(plan.place.shards(student.data))).statistics
    tokens, passes = [], []
    for seed in plan.budget.seeds:
        step = plan.place.student(student.name, seed)
        exported = json.loads((plan.place.model(step) / MARK).read_text(encoding="utf-8"))["step"]
        text = (plan.place.run(step) / "metrics.jsonl").read_text(encoding="utf-8")
        rows = [row for row in map(json.loads, text.splitlines()) if any(name.startswith("samples/") for name in row)]
        nearest = min(rows, key=lambda row: abs(row["step"] - exported))
        lines = {code: nearest[f"samples/{code}"] * exported / nearest["step"] for code in statistics}
        tokens.append(sum(lines[code] * own["llm_tokens"] / own["samples"] for code, own in statistics.items()))
        passes.append([lines[code] / own["samples"] for code, own in statistics.items()])
    return Reading(np.array(tokens), dict(zip(statistics, np.mean(passes, axis=0).tolist(), strict=True)))


def _lines(scores: Path) -> dict[str, np.ndarray]:
    table = parquet.read_table(scores / "lines.parquet")
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}


def _english(plan: Plan, language: str) -> np.ndarray:
    text = (plan.folder("data") / "test" / f"{language}.jsonl").read_text(encoding="utf-8")
    return np.array([json.loads(row)["english"] for row in text.splitlines()])


def _of_language(tables: list[dict[str, np.ndarray]], language: str, english: np.ndarray) -> TestLines:
    def column(table: dict[str, np.ndarray], name: str, system: str = "model") -> np.ndarray:
        return table[name][(table["language"] == language) & (table["system"] == system)]

    first = tables[0]
    return TestLines(
        num_tokens=column(first, "tokens"),
        num_bytes=column(first, "bytes"),
        nll=np.stack([column(table, "nll") for table in tables], axis=1),
        reciprocal_rank=np.stack([column(table, "reciprocal_rank") for table in tables], axis=1),
        unigram=column(first, "nll", "unigram"),
        english=english,
    )
