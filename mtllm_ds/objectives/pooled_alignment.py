"""Stage 1 of MT-LLM: the stack's pooled states match those of the LLM reading the same English text.

    loss = MSE(z_S, z_T), mean over rows and dimensions
    z_S = mean over all tokens (tag and </s> included) of LLM+LoRA(connector(encoder(x)))
    z_T = mean over all tokens (<bos> included) of LLM(x), adapters off, no gradient

`model.pooling` puts another vector of the same tokens in place of both means (`models/pooling.py`).

A later variant by the authors (not the paper) adds the error between states of words that are one token on both sides:

    loss = sequence_weight * MSE(z_S, z_T) + token_weight * mean over a row's such words of MSE(h_S[i], h_T[j])

with 0.333 and 0.667; rows without such a word add nothing to the second term. Beyond both: with shards of translations
(`mtllm-ds prepare shards --llm-text-field`) the stack reads a translation and the LLM its original; `contrastive_weight` adds that
z_S finds its z_T among those of the step (`step_contrast.py`), in training and not in validation.

Source: Schmidt et al., "Self-Distillation for Model Stacking Unlocks Cross-Lingual NLU in 200+ Languages",
Findings of EMNLP 2024, arXiv 2406.12739. The readable figure is the fraction of variance unexplained,
FVU = sum |z_S - z_T|^2 / sum |z_T - mean(z_T)|^2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mtllm_ds.config.objectives import PooledAlignment as PooledAlignmentSettings
from mtllm_ds.data.columns import TOKEN_PAIRS
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.models.pooling import pool
from mtllm_ds.models.readers import Reader
from mtllm_ds.objectives.base import Objective, ObjectiveOutput, Parts, StepWeights, Sums, per_language, plain, zeros
from mtllm_ds.objectives.step_contrast import against_step, contrast, own_targets
from mtllm_ds.teachers.base import Teacher
from mtllm_ds.teachers.cached import CachedTeacher


class PooledAlignment(Objective):
    """Mean-squared error between the pooled states of student and teacher."""

    def __init__(
        self,
        student: Reader,
        teacher: Teacher,
        num_languages: int,
        *,
        sequence_weight: float = 1.0,
        token_weight: float = 0.0,
        contrastive_weight: float = 0.0,
        contrastive_temperature: float = 0.05,
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.sequence_weight = sequence_weight
        self.token_weight = token_weight
        self.contrastive_weight = contrastive_weight
        self.contrastive_temperature = contrastive_temperature
        self.num_languages = num_languages

    @classmethod
    def build(cls, parts: Parts) -> PooledAlignment:
        settings, teacher = parts.settings.objective, parts.teacher
        assert isinstance(settings, PooledAlignmentSettings)
        assert teacher is not None
        names = ("sequence_weight", "token_weight", "contrastive_weight", "contrastive_temperature")
        return cls(parts.student, teacher, parts.num_languages, **{name: getattr(settings, name) for name in names})

    def count(self, batch: Batch) -> int:
        """Number of valid rows."""
        return batch.host.num_valid

    def prepare(self, batches: Sequence[Batch], step: StepWeights) -> Sequence[Batch]:
        """With a contrastive term: the teacher's vectors of the whole step, which its forwards then need not ask for."""
        if not self.contrastive_weight:
            return batches
        if isinstance(self.teacher, CachedTeacher):
            return against_step(batches, [self.teacher.vectors(batch).to(step.device) for batch in batches])
        with step.outside_forward(()):
            return against_step(batches, [self.teacher.vectors(batch.to(step.device)) for batch in batches])

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Summed row losses of a micro-batch; rows that are not valid weigh nothing."""
        valid = batch.valid.to(torch.float32)
        known_BD = own_targets(batch)
        if not self.token_weight and known_BD is not None:
            teacher_BD, student_BD = known_BD, self.student.vectors(batch)
        elif not self.token_weight:
            teacher_BD, student_BD = self.teacher.vectors_beside(batch, lambda: self.student.vectors(batch))
        else:
            teacher_BSD, student_BSD = self.teacher.states_beside(batch, lambda: self.student.padded_states(batch))
            teacher_BD = pool(teacher_BSD, batch.llm_mask, self.student.pooling)
            student_BD = pool(student_BSD, batch.encoder_mask, self.student.pooling)
        sequence_loss = (student_BD - teacher_BD).square().mean(-1) * valid
        row_loss = self.sequence_weight * sequence_loss
        more_sums = self._empty_sums_of_terms()
        if self.token_weight:
            token_loss, has_pairs = _token_loss(student_BSD, teacher_BSD, _pairs(batch))
            token_loss, has_pairs = token_loss * valid, has_pairs & batch.valid
            row_loss = row_loss + self.token_weight * token_loss
            more_sums |= {"token_loss": token_loss.detach().double().sum(), "token_rows": has_pairs.double().sum()}
        if (found := contrast(student_BD, batch, self.contrastive_temperature)) is not None:
            row_loss = row_loss + self.contrastive_weight * found.loss
            more_sums |= {
                "contrastive_loss": found.loss.detach().double().sum(),
                "contrastive_found": found.found.double().sum(),
                "contrastive_rows": valid.double().sum(),
            }
        sums = self._sums(row_loss.detach(), sequence_loss.detach(), teacher_BD, valid, batch.languages)
        return ObjectiveOutput(row_loss.sum(), sums | more_sums)

    def empty_sums(self) -> Sums:
        return self._empty_sums_of_terms() | zeros(
            "count", "loss", "squared_error", "teacher_square",
            teacher_sum=(self.student.hidden_size,),
            language_loss=(self.num_languages,), language_count=(self.num_languages,),
        )  # fmt: skip

    def _empty_sums_of_terms(self) -> Sums:
        """Of the terms beside the error of pooled states."""
        token = ("token_loss", "token_rows") if self.token_weight else ()
        contrastive = ("contrastive_loss", "contrastive_found", "contrastive_rows") if self.contrastive_weight else ()
        return zeros(*token, *contrastive)

    def _sums(
        self,
        row_loss: torch.Tensor,
        sequence_loss: torch.Tensor,
        teacher_BD: torch.Tensor,
        valid: torch.Tensor,
        languages: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        teacher = teacher_BD.double() * valid.unsqueeze(-1)
        row_loss = row_loss.double()
        return {
            "count": valid.double().sum(),
            "loss": row_loss.sum(),
            "squared_error": sequence_loss.double().sum() * teacher_BD.shape[-1],
            "teacher_sum": teacher.sum(0),
            "teacher_square": teacher.square().sum(),
            "language_loss": per_language(row_loss, languages, self.num_languages),
            "language_count": per_language(valid.double(), languages, self.num_languages),
        }

    def summarize(self, sums: Mapping[str, torch.Tensor], languages: Sequence[str]) -> dict[str, float]:
        """`loss`, `fvu` (of the pooled states), `token_loss`, `contrastive_loss` and `contrastive_found` (the share of texts that
        find their target first) where there are any, and `loss/<language>` for each language seen."""
        count = plain(sums["count"])
        if count == 0:
            return {"loss": 0.0, "fvu": 0.0}
        spread = plain(sums["teacher_square"]) - plain(sums["teacher_sum"].square().sum()) / count
        figures = {
            "loss": plain(sums["loss"]) / count,
            "fvu": plain(sums["squared_error"]) / spread if spread > 0 else float("nan"),
        }
        if "token_loss" in sums:
            figures["token_loss"] = plain(sums["token_loss"]) / max(1.0, plain(sums["token_rows"]))
        if "contrastive_rows" in sums and (rows := plain(sums["contrastive_rows"])):
            figures |= {name: plain(sums[name]) / rows for name in ("contrastive_loss", "contrastive_found")}
        for index, name in enumerate(languages):
            seen = plain(sums["language_count"][index])
            if seen and len(languages) > 1:
                figures[f"loss/{name}"] = plain(sums["language_loss"][index]) / seen
        return figures


def _pairs(batch: Batch) -> torch.Tensor:
    """(B, N, 2) places of the same word on the encoder's and the LLM's side; -1 where there is none."""
    if not batch.host.num_valid:
        return torch.zeros(len(batch), 0, 2, dtype=torch.int64, device=batch.valid.device)
    return batch.extras[TOKEN_PAIRS]


def _token_loss(
    student_BSD: torch.Tensor, teacher_BSD: torch.Tensor, pairs_BN2: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean error of each row over its words, (B,) float32 (0 where it has none), and which rows have some, (B,) bool."""
    there = pairs_BN2[..., 0] >= 0
    rows = torch.arange(len(pairs_BN2), device=pairs_BN2.device)[:, None]
    places = pairs_BN2.clamp(min=0)
    student, teacher = student_BSD[rows, places[..., 0]], teacher_BSD[rows, places[..., 1]]
    error_BN = (student.float() - teacher.float()).square().mean(-1) * there
    return error_BN.sum(-1) / there.sum(-1).clamp(min=1), there.any(-1)
