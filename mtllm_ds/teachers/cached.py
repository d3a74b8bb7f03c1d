"""Targets that were computed before and come with the batch."""

from __future__ import annotations

import torch

from mtllm_ds.data.columns import TEACHER_POOLED
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.teachers.base import Teacher


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
