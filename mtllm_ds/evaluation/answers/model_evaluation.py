"""A model's answers to a task, on any number of ranks: one file of predictions a language and setting.

Every rank answers its share of a language and writes it to a file of its own; rank 0 joins them. No rank keeps more than one
language in memory. The output folder must be one that all ranks see.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mtllm_ds import atomic
from mtllm_ds.cluster.agree import from_main, sum_over_ranks, together
from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.answers.answerer import Answer, Answerer, deal
from mtllm_ds.evaluation.answers.evaluation_journal import EvaluationJournal
from mtllm_ds.evaluation.answers.predictions import Predictions, predictions_of, read_predictions, write_predictions
from mtllm_ds.evaluation.answers.progress import EvaluationDisplay
from mtllm_ds.evaluation.answers.survey import LanguageSurvey, Read, Unit, Wanted, plan_units, read_unit, survey
from mtllm_ds.evaluation.items.items import Item
from mtllm_ds.evaluation.items.tasks import Task

_ROW = np.dtype([("row", np.int64), ("choice", np.int64), ("score", np.float64)])


@dataclass(frozen=True)
class Question:
    """Which system answers which items, and how its answers are read."""

    task: Task
    languages: tuple[str, ...]
    labels: tuple[str, ...]
    """of the model's head, in its order; not used by multiple choice"""
    tags: Mapping[str, str]
    """language -> the tag that the model reads it with"""
    system: str
    seed: int = 0
    setting: Wanted = "both"
    read: Read = "text"
    limit: int | None = None
    described: Mapping[str, str | int] | None = None
    """of the model: what must be the same when an evaluation goes on"""

    @property
    def asked(self) -> dict[str, str | int | None]:
        """What a continuation must have in common with the start."""
        return {
            "task": self.task.name, "system": self.system, "seed": self.seed, "read": self.read, "limit": self.limit,
            **(self.described or {}),
        }  # fmt: skip

    def label_of(self, answer: Answer) -> str:
        if self.task.type == "multiple_choice":
            return str(answer.choice + 1)
        return self.labels[answer.choice]


def look_at_items(question: Question, cluster: Cluster) -> tuple[dict[str, LanguageSurvey], list[Unit]]:
    """What there is to answer; every mistake in the data is told here, before a model is loaded. Called by all ranks."""

    def look() -> tuple[dict[str, LanguageSurvey], list[Unit]]:
        found = survey(question.task, question.languages, question.limit)
        return found, plan_units(question.task, found, question.setting, question.read)

    return from_main(look, cluster.device)


class ModelEvaluation:
    """One evaluation in one output folder; all ranks make the same calls."""

    def __init__(
        self,
        question: Question,
        surveys: Mapping[str, LanguageSurvey],
        units: Sequence[Unit],
        output: Path,
        cluster: Cluster,
    ) -> None:
        """Raises `UserError` if the folder holds another evaluation."""
        self.question = question
        self.cluster = cluster
        self.output = output
        self._journal: EvaluationJournal | None = None

        def open_journal() -> list[Unit]:
            self._journal = EvaluationJournal(output, question.asked, surveys)
            return [unit for unit in units if not self._journal.is_finished(unit)]

        self.units_to_do = from_main(open_journal, cluster.device)
        self.num_finished = len(units) - len(self.units_to_do)

    def answer(self, answerer: Answerer) -> None:
        """Answer every unit that is not finished."""
        with EvaluationDisplay(self.units_to_do, quiet=not self.cluster.is_main) as display:
            if self.num_finished:
                display.say(f"{self.num_finished} of the files are finished already")
            for unit in self.units_to_do:
                display.begin(unit)
                self._answer_unit(unit, answerer, display)

    def predictions(self) -> Predictions | None:
        """Join the files of all units into `predictions.parquet`; None on every rank but 0."""
        if self._journal is None:
            return None
        joined = read_predictions(self._journal.finished_files())
        write_predictions(self.output / "predictions.parquet", joined)
        return joined

    def seconds_per_item(self) -> float:
        """Of all ranks together, without loading; rank 0 alone knows."""
        assert self._journal is not None
        return self._journal.seconds_per_item()

    def _answer_unit(self, unit: Unit, answerer: Answerer, display: EvaluationDisplay) -> None:
        question, device = self.question, self.cluster.device

        def answer_share() -> tuple[list[Item], float]:
            items = read_unit(question.task, unit, question.limit, question.read)
            started = time.perf_counter()
            rows = self._ask(items, question.tags[unit.language], answerer, display)
            seconds = time.perf_counter() - started
            buffer = io.BytesIO()
            np.save(buffer, rows, allow_pickle=False)
            atomic.write_bytes(self._part(unit, self.cluster.rank), buffer.getvalue())
            return items, seconds

        items, seconds = together(answer_share, device)
        total = float(sum_over_ranks(torch.tensor(seconds, dtype=torch.float64, device=device)))
        together(lambda: self._join(unit, items, total, display), device)

    def _ask(self, items: Sequence[Item], tag: str, answerer: Answerer, display: EvaluationDisplay) -> np.ndarray:
        rows = []
        for batch in deal(items, answerer.batch_size, self.cluster.rank, self.cluster.world_size):
            answers = answerer([items[row] for row in batch], tag)
            rows += [(row, answer.choice, answer.score) for row, answer in zip(batch, answers, strict=True)]
            display.advance(len(batch) * self.cluster.world_size)  # the others are as far
        return np.array(rows, dtype=_ROW)

    def _part(self, unit: Unit, rank: int) -> Path:
        return self.output / "predictions" / unit.setting / f".{unit.language}.part{rank}.npy"

    def _join(self, unit: Unit, items: Sequence[Item], seconds: float, display: EvaluationDisplay) -> None:
        """Rank 0 makes one file of all ranks' parts, in the order of the items."""
        if self._journal is None:
            return
        parts = [self._part(unit, rank) for rank in range(self.cluster.world_size)]
        unseen = [rank for rank, part in enumerate(parts) if not part.is_file()]
        if unseen:
            raise UserError(
                f"output {self.output}: rank 0 does not see what rank {unseen[0]} wrote there; name a folder that all "
                "machines share"
            )
        rows = np.sort(np.concatenate([np.load(part, allow_pickle=False) for part in parts]), order="row")
        assert np.array_equal(rows["row"], np.arange(len(items))), "ranks disagree about the items"
        question = self.question
        answers = [question.label_of(Answer(int(row["choice"]), float(row["score"]))) for row in rows]
        predictions = predictions_of(
            question.task.facts, items, answers, language=unit.language, system=question.system, seed=question.seed,
            setting=unit.setting, scores=rows["score"].tolist(),
        )  # fmt: skip
        write_predictions(self._journal.path_of(unit), predictions)
        self._journal.finish(unit, seconds)
        for part in parts[0].parent.glob(f".{unit.language}.part*.npy"):  # also those of an earlier start
            part.unlink()
        display.finish(unit, float(predictions.correct.mean()), seconds)
