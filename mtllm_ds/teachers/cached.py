"""Targets that were computed before and come with the batch."""

from __future__ import annotations

import torch

from mtllm_ds.data.columns import TEACHER_LOG_TAIL_MASS, TEACHER_POOLED, TEACHER_TOP_IDS, TEACHER_TOP_LOG_PROBS
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.teachers.base import Teacher, TopTokens


class CachedTeacher(Teacher):
    """Vectors of the column `teacher_pooled`, written by `mtllm-ds prepare teacher-targets`."""

    def __init__(self, width: int, *, of_choices: bool = False) -> None:
        self.width = width
        self.of_choices = of_choices

    def vectors(self, batch: Batch) -> torch.Tensor:
        """(B, D) or (B, C, D) float32; zeros for a batch without any sample, which brings no columns."""
        if batch.host.num_valid:
            return batch.extras[TEACHER_POOLED].float()
        shape = (len(batch), 1, self.width) if self.of_choices else (len(batch), self.width)
        return torch.zeros(shape, device=batch.valid.device)


class CachedNextTokens(Teacher):
    """Likeliest tokens of the responses, written by `mtllm-ds prepare teacher-targets --top-k`."""

    def vectors(self, batch: Batch) -> torch.Tensor:
        """None are cached."""
        raise NotImplementedError("next tokens tell no vectors")

    def next_tokens(self, batch: Batch, owners: torch.Tensor, within: torch.Tensor) -> TopTokens:
        """(N, k) each; a batch without any sample, which brings no columns, has N = 0.

        Together with all others they have the probability 1 again, whatever the stored type rounded away.
        """
        if not batch.host.num_valid:
            none = torch.zeros(len(owners), 1, device=batch.valid.device)
            return TopTokens(none.long(), none)
        width = batch.extras[TEACHER_TOP_IDS].shape[1]
        ids, log_probs, log_tail = (
            batch.extras[name].flatten(0, 1)[owners * width + within]
            for name in (TEACHER_TOP_IDS, TEACHER_TOP_LOG_PROBS, TEACHER_LOG_TAIL_MASS)
        )
        return TopTokens(ids, log_probs - torch.logaddexp(log_probs.logsumexp(-1), log_tail)[:, None])
