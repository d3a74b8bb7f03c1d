"""Stage 1 of MT-LLM: the stack's mean-pooled states match those of the LLM reading the same English text.

    loss = MSE(z_S, z_T), mean over rows and dimensions
    z_S = mean over all tokens (tag and </s> included) of LLM+LoRA(connector(encoder(x)))
    z_T = mean over all tokens (<bos> included) of LLM(x), adapters off, no gradient

Source: Schmidt et al., "Self-Distillation for Model Stacking Unlocks Cross-Lingual NLU in 200+ Languages",
Findings of EMNLP 2024, arXiv 2406.12739. The readable figure is the fraction of variance unexplained,
FVU = sum |z_S - z_T|^2 / sum |z_T - mean(z_T)|^2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mtllm_ds.data.collate import Batch
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.objectives.base import Objective, ObjectiveOutput, per_language, plain

TARGETS = "teacher_pooled"


class PooledAlignment(Objective):
    """Mean-squared error between the pooled states of student and teacher."""

    def __init__(self, stack: StackedModel, num_languages: int, *, cached_teacher: bool = False) -> None:
        super().__init__()
        self.stack = stack
        self.cached_teacher = cached_teacher
        """The teacher's vectors come with the batch (`Batch.extras["teacher_pooled"]`): it need not run"""
        self.side = stack.side
        self.num_languages = num_languages

    def count(self, batch: Batch) -> int:
        """Number of valid rows."""
        return int(batch.valid.sum())

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Summed row losses of a micro-batch; rows that are not valid weigh nothing."""
        teacher_BD = self._teacher_vectors(batch)
        student_BD = self.stack.vectors(batch)
        valid = batch.valid.to(torch.float32)
        row_loss = (student_BD - teacher_BD).square().mean(-1) * valid
        return ObjectiveOutput(row_loss.sum(), self._sums(row_loss.detach(), teacher_BD, valid, batch.languages))

    def _teacher_vectors(self, batch: Batch) -> torch.Tensor:
        """(B, D) float32"""
        if not self.cached_teacher:
            return self.stack.teacher_vectors(batch)
        if not batch.valid.any():
            return torch.zeros(len(batch), self.stack.hidden_size, device=batch.valid.device)
        return batch.extras[TARGETS].float()

    def _sums(
        self, row_loss: torch.Tensor, teacher_BD: torch.Tensor, valid: torch.Tensor, languages: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        teacher = teacher_BD.double() * valid.unsqueeze(-1)
        row_loss = row_loss.double()
        return {
            "count": valid.double().sum(),
            "loss": row_loss.sum(),
            "squared_error": row_loss.sum() * teacher_BD.shape[-1],
            "teacher_sum": teacher.sum(0),
            "teacher_square": teacher.square().sum(),
            "language_loss": per_language(row_loss, languages, self.num_languages),
            "language_count": per_language(valid.double(), languages, self.num_languages),
        }

    def summarize(self, sums: Mapping[str, torch.Tensor], languages: Sequence[str]) -> dict[str, float]:
        """`loss`, `fvu`, and `loss/<language>` for each language seen."""
        count = plain(sums["count"])
        if count == 0:
            return {"loss": 0.0, "fvu": 0.0}
        spread = plain(sums["teacher_square"]) - plain(sums["teacher_sum"].square().sum()) / count
        figures = {
            "loss": plain(sums["loss"]) / count,
            "fvu": plain(sums["squared_error"]) / spread if spread > 0 else float("nan"),
        }
        for index, name in enumerate(languages):
            seen = plain(sums["language_count"][index])
            if seen and len(languages) > 1:
                figures[f"loss/{name}"] = plain(sums["language_loss"][index]) / seen
        return figures
