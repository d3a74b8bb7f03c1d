"""What every problem has: hidden states, a head, and weights of the rows."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mtllm_kernels.common.products import accumulator_of


@dataclass(frozen=True, kw_only=True)
class HeadProblem:
    """N rows (tokens), V vocabulary entries, D hidden width. `row_weight` holds validity and the divisor of a mean."""

    student_hidden: Tensor  # (N, D)
    student_weight: Tensor  # (V, D)
    row_weight: Tensor  # (N,) float32 or float64; 0 marks a row that is not there

    @property
    def trained_bias(self) -> Tensor | None:
        """(V,) the head's bias, where the problem has one."""
        return None

    def without_wrong_rows(self) -> Self:
        """The problem after its rows were looked at one by one; see `refused_rows`."""
        return self

    @property
    def num_rows(self) -> int:
        return self.student_hidden.shape[0]

    @property
    def vocabulary(self) -> int:
        return self.student_weight.shape[0]

    @property
    def accumulator(self) -> torch.dtype:
        return accumulator_of(self.student_hidden)


def row_weights(like: Tensor, valid: Tensor | None, reduction: str) -> Tensor:
    """(N,) weights whose sum over the rows' losses is the reduction; 0 for rows that are not valid. No host sync."""
    dtype, num_rows = accumulator_of(like), like.shape[0]
    if valid is None:
        share = 1 / max(num_rows, 1) if reduction == "mean" else 1.0
        return torch.full((num_rows,), share, dtype=dtype, device=like.device)
    weight = valid.to(dtype)
    return weight / weight.sum().clamp(min=1) if reduction == "mean" else weight


def weighted(rows: Tensor, row_weight: Tensor) -> Tensor:
    """Losses of the rows times their weights, (N,); rows of weight 0 give 0 whatever they hold."""
    return torch.where(row_weight != 0, rows * row_weight, 0.0)
