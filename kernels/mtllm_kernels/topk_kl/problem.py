"""One problem of `fused_topk_kl`, checked once. N rows, V vocabulary entries, D hidden width, k kept teacher tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mtllm_kernels.common.checks import FLOATING, check_matrix, check_same
from mtllm_kernels.common.problem import HeadProblem


@dataclass(frozen=True, kw_only=True)
class TopkProblem(HeadProblem):
    """Tensors and settings of one call."""

    topk_ids: Tensor  # (N, k) int32 or int64, distinct within a row
    topk_log_probs: Tensor  # (N, k), the teacher's at this temperature
    temperature: float = 1.0


def check_topk_problem(problem: TopkProblem) -> None:
    """Raises ValueError naming the tensor or setting that does not fit the others."""
    p = problem
    if not p.temperature > 0:
        raise ValueError(f"temperature must be positive, got {p.temperature}")
    check_matrix("student_hidden", p.student_hidden, None, None)
    num_rows, width = p.student_hidden.shape
    check_matrix("student_weight", p.student_weight, None, width)
    check_same("student_weight", p.student_weight, "student_hidden", p.student_hidden)
    check_matrix("topk_ids", p.topk_ids, num_rows, None, kinds=(torch.int32, torch.int64))
    check_matrix("topk_log_probs", p.topk_log_probs, num_rows, p.topk_ids.shape[1], kinds=FLOATING)
    for name, tensor in (("topk_ids", p.topk_ids), ("topk_log_probs", p.topk_log_probs)):
        check_same(name, tensor, "student_hidden", p.student_hidden, dtype=False)
    if not 0 < p.topk_ids.shape[1] <= p.vocabulary:
        raise ValueError(f"topk_ids has {p.topk_ids.shape[1]} columns, the vocabulary {p.vocabulary} entries")
