"""Stage 2 of MT-LLM: the stack matches what a task-tuned LLM thinks of the English text. No labels enter the loss.

    match = vectors:  loss = MSE(z_S, z_T), mean over rows and dimensions (multiple choice: over a row's choices too)
    match = logits:   loss = KL(softmax(head(z_T)) || softmax(head(z_S))), mean over rows

z_T are cached vectors of the teacher (`Batch.extras["teacher_pooled"]`); the head is the teacher's, copied and frozen.
Source: Schmidt et al., arXiv 2406.12739, section on task distillation, steps (c) and (d).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from mtllm_ds.config.objectives import TaskDistillation as TaskDistillationSettings
from mtllm_ds.data.shards.manifest import TaskEntry
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.models.build import dtype_of
from mtllm_ds.models.heads import TaskHead, head_from
from mtllm_ds.models.readers import Reader
from mtllm_ds.objectives.base import ObjectiveOutput, Parts, Sums, plain, zeros
from mtllm_ds.objectives.task import TaskObjective
from mtllm_ds.teachers.base import Teacher


class TaskDistillation(TaskObjective):
    """Mean-squared error to a teacher's cached vectors, or the divergence of what the frozen head makes of both."""

    def __init__(
        self,
        student: Reader,
        teacher: Teacher,
        head: TaskHead,
        task: TaskEntry,
        num_languages: int,
        match: Literal["vectors", "logits"] = "vectors",
    ) -> None:
        super().__init__(student, head.requires_grad_(False), task, num_languages)
        self.teacher = teacher
        self.match = match

    @classmethod
    def build(cls, parts: Parts) -> TaskDistillation:
        settings = parts.settings.objective
        assert isinstance(settings, TaskDistillationSettings)
        assert parts.head is not None
        assert parts.task is not None
        assert parts.teacher is not None
        head = head_from(parts.head, parts.student.hidden_size, f"objective.teacher={settings.teacher}")
        head = head.to(dtype_of(parts.settings))
        return cls(parts.student, parts.teacher, head, parts.task, parts.num_languages, settings.match)

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Summed row losses of a micro-batch; rows that are not valid weigh nothing."""
        student, present = self.vectors(batch)
        teacher = self.teacher.vectors(batch)
        squared_error = _mean_over_choices((student - teacher).square().mean(-1), present)
        # The head is a module of its own under ZeRO: one call serves student and teacher.
        asked = student if self.match == "logits" else student.detach()
        both = self.scores(torch.cat([asked, teacher]), None if present is None else torch.cat([present, present]))
        student_scores, teacher_scores = both.chunk(2)
        row_loss = squared_error if self.match == "vectors" else _divergence(teacher_scores, student_scores)
        row_loss = row_loss * batch.valid
        sums = self.answer_sums(row_loss, student_scores, self.labels(batch), batch)
        return ObjectiveOutput(row_loss.sum(), sums | self._spread(squared_error.detach(), teacher, present, batch))

    def empty_sums(self) -> Sums:
        spread = zeros("squared_error", "teacher_rows", "teacher_square", teacher_sum=(self.student.hidden_size,))
        return super().empty_sums() | spread

    def summarize(self, sums: Mapping[str, torch.Tensor], languages: Sequence[str]) -> dict[str, float]:
        """As of any task objective, and `fvu`, the fraction of the teacher's variance that is left unexplained."""
        figures = super().summarize(sums, languages)
        rows = plain(sums["teacher_rows"])
        if rows:
            spread = plain(sums["teacher_square"]) - plain(sums["teacher_sum"].square().sum()) / rows
            figures["fvu"] = plain(sums["squared_error"]) / spread if spread > 0 else float("nan")
        return figures

    def _spread(
        self, squared_error: torch.Tensor, teacher: torch.Tensor, present: torch.Tensor | None, batch: Batch
    ) -> Sums:
        """Sums for the fraction of variance unexplained; each choice is a vector of its own."""
        there = batch.valid if present is None else present & batch.valid[:, None]
        vectors_of_row = there.double() if present is None else there.double().sum(-1)
        vectors = teacher.double() * there.unsqueeze(-1)
        return {
            "squared_error": (squared_error.double() * vectors_of_row).sum() * teacher.shape[-1],
            "teacher_rows": there.double().sum(),
            "teacher_sum": vectors.flatten(0, -2).sum(0),
            "teacher_square": vectors.square().sum(),
        }


def _mean_over_choices(values: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    """(B,) as it is; (B, C) -> (B,) mean over the choices that are there."""
    if present is None:
        return values
    return (values * present).sum(-1) / present.sum(-1).clamp(min=1)


def _divergence(teacher_scores: torch.Tensor, student_scores: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) of each row: (B, K) scores -> (B,)."""
    teacher, student = teacher_scores.log_softmax(-1), student_scores.log_softmax(-1)
    return (teacher.exp() * (teacher - student)).sum(-1)
