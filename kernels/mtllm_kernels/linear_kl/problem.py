"""One distillation problem: what every backend of `fused_linear_kl` is given, checked once.

Shapes: N rows (tokens), V vocabulary entries, D_s and D_t hidden widths.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mtllm_kernels.products import accumulator_of

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")
REDUCTIONS = ("mean", "sum", "none")
IGNORED_LABEL = -100
FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Problem:
    """Tensors and settings of one call. `row_weight` already holds validity and the divisor of a mean."""

    student_hidden: Tensor  # (N, D_s)
    student_weight: Tensor  # (V, D_s)
    teacher_hidden: Tensor  # (N, D_t)
    teacher_weight: Tensor  # (V, D_t); the very same tensor as student_weight when the head is shared
    student_bias: Tensor | None  # (V,)
    teacher_bias: Tensor | None  # (V,)
    row_weight: Tensor  # (N,) float32 or float64; 0 marks a row that is not there
    labels: Tensor | None  # (N,) int64; IGNORED_LABEL means no label
    divergence: str
    beta: float
    temperature: float
    divergence_scale: float  # T^2 or 1
    label_weight: float
    softcap: float | None

    @property
    def shared_head(self) -> bool:
        return self.teacher_weight is self.student_weight

    @property
    def accumulator(self) -> torch.dtype:
        return accumulator_of(self.student_hidden)

    @property
    def has_labels(self) -> bool:
        return self.labels is not None and self.label_weight != 0.0


def check_matrix(
    name: str,
    tensor: Tensor,
    rows: int | None,
    columns: int | None,
    kinds: tuple[torch.dtype, ...] = FLOATING,
) -> None:
    """Raises ValueError naming the tensor unless it is a (rows, columns) matrix of one of `kinds`."""
    if tensor.dim() != 2:
        hint = " (a partitioned head? use it inside the engine's forward)" if tensor.numel() == 0 else ""
        raise ValueError(f"{name} must have two dimensions, got shape {tuple(tensor.shape)}{hint}")
    if rows is not None and tensor.shape[0] != rows:
        raise ValueError(f"{name} must have {rows} rows, got shape {tuple(tensor.shape)}")
    if columns is not None and tensor.shape[1] != columns:
        raise ValueError(f"{name} must have {columns} columns, got shape {tuple(tensor.shape)}")
    if tensor.dtype not in kinds:
        raise ValueError(f"{name} must be of dtype {' or '.join(map(str, kinds))}, got {tensor.dtype}")


def check_vector(name: str, tensor: Tensor | None, length: int, kinds: tuple[torch.dtype, ...]) -> None:
    """Raises ValueError naming the tensor unless it is None or a (length,) vector of one of `kinds`."""
    if tensor is None:
        return
    if tensor.shape != (length,):
        raise ValueError(f"{name} must have shape ({length},), got {tuple(tensor.shape)}")
    if tensor.dtype not in kinds:
        raise ValueError(f"{name} must be of dtype {' or '.join(map(str, kinds))}, got {tensor.dtype}")


def check_same(name: str, tensor: Tensor | None, other_name: str, other: Tensor, *, dtype: bool = True) -> None:
    """Raises ValueError naming the tensor unless device (and dtype) agree with another tensor's."""
    if tensor is None:
        return
    if tensor.device != other.device:
        raise ValueError(f"{name} is on {tensor.device}, {other_name} on {other.device}")
    if dtype and tensor.dtype != other.dtype:
        raise ValueError(f"{name} is {tensor.dtype}, {other_name} is {other.dtype}; cast one of them")


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def check_problem(problem: Problem) -> None:
    """Raises ValueError naming the tensor or setting that does not fit the others."""
    p = problem
    check_choice("divergence", p.divergence, DIVERGENCES)
    if not p.temperature > 0:
        raise ValueError(f"temperature must be positive, got {p.temperature}")
    if p.divergence == "jsd" and not 0 < p.beta < 1:
        raise ValueError(f"beta must lie strictly between 0 and 1, got {p.beta}; its limits are the two KLs")
    if p.softcap is not None and not p.softcap > 0:
        raise ValueError(f"softcap must be positive, got {p.softcap}")
    if not 0 <= p.label_weight <= 1:
        raise ValueError(f"label_weight must lie in [0, 1], got {p.label_weight}")
    if p.label_weight != 0 and p.labels is None:
        raise ValueError("label_weight is set but labels is None")
    if p.labels is not None and p.label_weight == 0:
        raise ValueError("labels are given but label_weight is 0, so they would have no effect")
    _check_tensors(p)


def _check_tensors(p: Problem) -> None:
    check_matrix("student_hidden", p.student_hidden, None, None)
    num_rows, student_width = p.student_hidden.shape
    check_matrix("student_weight", p.student_weight, None, student_width)
    vocabulary = p.student_weight.shape[0]
    check_matrix("teacher_hidden", p.teacher_hidden, num_rows, None)
    check_matrix("teacher_weight", p.teacher_weight, vocabulary, p.teacher_hidden.shape[1])
    check_same("student_weight", p.student_weight, "student_hidden", p.student_hidden)
    check_same("teacher_hidden", p.teacher_hidden, "student_hidden", p.student_hidden)
    check_same("teacher_weight", p.teacher_weight, "student_hidden", p.student_hidden)
    for name, bias in (("student_bias", p.student_bias), ("teacher_bias", p.teacher_bias)):
        check_vector(name, bias, vocabulary, FLOATING)
        check_same(name, bias, "student_hidden", p.student_hidden, dtype=False)
    check_vector("labels", p.labels, num_rows, (torch.int64,))
    check_same("labels", p.labels, "student_hidden", p.student_hidden, dtype=False)
