"""The contract between an objective and the loop: sums and counts, never means."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.models.readers import Side

Sums = dict[str, torch.Tensor]


@dataclass(frozen=True)
class ObjectiveOutput:
    """What one forward gives: everything is a sum, so forwards, steps and ranks add up."""

    loss_sum: torch.Tensor
    """Scalar with gradient: the summed loss of the valid rows."""
    sums: Sums
    """Detached sums for the log, still on the device; `count` is among them."""


class Objective(nn.Module, ABC):
    """The one module that the engine wraps: all use of sharded weights happens inside its forward."""

    side: Side
    """Whose ids the student reads."""
    step_seed: int = 0
    """Set by the loop before a training step. What an objective draws may depend on it and the sample alone, never on the batch."""

    @abstractmethod
    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Loss and sums of one micro-batch."""

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """What the batch adds to the divisor of the loss, known before its forward."""

    @abstractmethod
    def summarize(self, sums: Mapping[str, torch.Tensor], languages: Sequence[str]) -> dict[str, float]:
        """Readable figures (`loss` among them) from sums added up over forwards and ranks."""


def add_sums(total: Sums, more: Mapping[str, torch.Tensor]) -> Sums:
    """Elementwise total; an empty total takes the shape of what comes."""
    return {key: total[key] + value if key in total else value for key, value in more.items()}


def per_language(values: torch.Tensor, languages: torch.Tensor, num_languages: int) -> torch.Tensor:
    """Sums of row values by language: (B,), (B,) int64 -> (num_languages,)."""
    return torch.zeros(num_languages, dtype=values.dtype, device=values.device).index_add_(0, languages, values)


def tokens_in(batch: Batch, side: Side) -> int:
    """Tokens that the student reads in a batch (valid rows)."""
    mask = batch.encoder_mask if side == "encoder" else batch.llm_mask
    return int(mask[batch.valid].sum())


def plain(value: Any) -> float:
    return float(value.item() if isinstance(value, torch.Tensor) else value)
