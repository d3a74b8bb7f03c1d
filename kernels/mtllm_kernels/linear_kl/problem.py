"""One distillation problem: what every backend of `fused_linear_kl` is given, checked once.

Shapes: N rows (tokens), V vocabulary entries, D_s and D_t hidden widths.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mtllm_kernels.common.checks import (
    FLOATING,
    check_choice,
    check_head,
    check_matrix,
    check_positive,
    check_same,
    check_vector,
    refused_rows,
)
from mtllm_kernels.common.constants import IGNORED_LABEL
from mtllm_kernels.common.problem import HeadProblem

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")


@dataclass(frozen=True, kw_only=True)
class Problem(HeadProblem):
    """Tensors and settings of one call."""

    teacher_hidden: Tensor  # (N, D_t)
    teacher_weight: Tensor | None  # (V, D_t); None: the student's head is shared
    student_bias: Tensor | None = None  # (V,)
    teacher_bias: Tensor | None = None  # (V,)
    labels: Tensor | None = None  # (N,) int64; IGNORED_LABEL means no label
    divergence: str = "forward_kl"
    beta: float = 0.5
    temperature: float = 1.0
    divergence_scale: float = 1.0  # T^2 or 1
    label_weight: float = 0.0
    softcap: float | None = None

    @property
    def trained_bias(self) -> Tensor | None:
        return self.student_bias

    def without_wrong_rows(self) -> "Problem":
        """Labels outside of the vocabulary are refused, or poison their row; those of rows that are not there are IGNORED_LABEL."""
        if not self.has_labels:
            return self
        assert self.labels is not None
        outside = (self.labels < 0) | (self.labels >= self.vocabulary)
        wrong = outside & (self.labels != IGNORED_LABEL)
        what = f"labels must lie in [0, {self.vocabulary}) or be {IGNORED_LABEL}"
        row_weight = refused_rows(wrong, what, self.row_weight)
        return replace(self, row_weight=row_weight, labels=self.labels.masked_fill(outside, IGNORED_LABEL))

    @property
    def shared_head(self) -> bool:
        return self.teacher_weight is None

    @property
    def teacher_head(self) -> Tensor:
        """(V, D_t), the very same tensor as student_weight when the head is shared."""
        return self.student_weight if self.teacher_weight is None else self.teacher_weight

    @property
    def has_labels(self) -> bool:
        return self.labels is not None and self.label_weight != 0.0


def check_problem(problem: Problem) -> None:
    """Raises ValueError naming the tensor or setting that does not fit the others."""
    p = problem
    check_choice("divergence", p.divergence, DIVERGENCES)
    check_positive("temperature", p.temperature)
    if p.divergence == "jsd" and not 0 < p.beta < 1:
        raise ValueError(f"beta must lie strictly between 0 and 1, got {p.beta}; its limits are the two KLs")
    if p.softcap is not None:
        check_positive("softcap", p.softcap)
    if not 0 <= p.label_weight <= 1:
        raise ValueError(f"label_weight must lie in [0, 1], got {p.label_weight}")
    if p.label_weight != 0 and p.labels is None:
        raise ValueError("label_weight is set but labels is None")
    if p.labels is not None and p.label_weight == 0:
        raise ValueError("labels are given but label_weight is 0, so they would have no effect")
    _check_tensors(p)


def _check_tensors(p: Problem) -> None:
    check_matrix("student_hidden", p.student_hidden, None, None)
    num_rows = p.num_rows
    check_head("student_weight", p.student_weight, None, "student_hidden", p.student_hidden)
    vocabulary = p.vocabulary
    check_matrix("teacher_hidden", p.teacher_hidden, num_rows, None)
    check_same("teacher_hidden", p.teacher_hidden, "student_hidden", p.student_hidden)
    check_head("teacher_weight", p.teacher_head, vocabulary, "teacher_hidden", p.teacher_hidden)
    for name, bias in (("student_bias", p.student_bias), ("teacher_bias", p.teacher_bias)):
        check_vector(name, bias, vocabulary, FLOATING)
        check_same(name, bias, "student_hidden", p.student_hidden, dtype=False)
    check_vector("labels", p.labels, num_rows, (torch.int64,))
    check_same("labels", p.labels, "student_hidden", p.student_hidden, dtype=False)
