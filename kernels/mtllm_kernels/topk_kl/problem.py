"""One problem of `fused_topk_kl`, checked once. N rows, V vocabulary entries, D hidden width, k kept teacher tokens."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mtllm_kernels.common.checks import FLOATING, check_head, check_matrix, check_positive, check_same, refused_rows
from mtllm_kernels.common.problem import HeadProblem

LARGEST_MASS = 1.1  # low-precision log-probabilities sum to a little more than 1


@dataclass(frozen=True, kw_only=True)
class TopkProblem(HeadProblem):
    """Tensors and settings of one call."""

    topk_ids: Tensor  # (N, k) int32 or int64, distinct within a row
    topk_log_probs: Tensor  # (N, k), the teacher's at this temperature
    temperature: float = 1.0

    def without_wrong_rows(self) -> "TopkProblem":
        """Ids outside of the vocabulary, ids that occur twice and log-probabilities that are none are refused, or poison their
        row. Empty slots (-inf), and all slots of rows that are not there, get id 0 and -inf."""
        ids, log_probs = self.topk_ids.long(), self.topk_log_probs
        empty = (log_probs == -math.inf) | (self.row_weight == 0)[:, None]
        outside = ((ids < 0) | (ids >= self.vocabulary)) & ~empty
        places = -1 - torch.arange(ids.shape[1], device=ids.device)  # distinct, and no ids
        in_order = torch.where(empty, places, ids).sort(-1).values
        twice = (in_order[:, 1:] == in_order[:, :-1]).any(-1)
        mass = torch.where(empty, 0.0, log_probs.exp()).sum(-1)
        row_weight = refused_rows(outside.any(-1), f"topk_ids must lie in [0, {self.vocabulary})", self.row_weight)
        row_weight = refused_rows(twice, "topk_ids holds a token twice", row_weight)
        row_weight = refused_rows(
            mass > LARGEST_MASS, "topk_log_probs are no log-probabilities: they sum to over 1", row_weight
        )
        gone = empty | outside
        return replace(
            self,
            row_weight=row_weight,
            topk_ids=ids.masked_fill(gone, 0),
            topk_log_probs=log_probs.masked_fill(gone, -math.inf),
        )


def check_topk_problem(problem: TopkProblem) -> None:
    """Raises ValueError naming the tensor or setting that does not fit the others."""
    p = problem
    check_positive("temperature", p.temperature)
    check_matrix("student_hidden", p.student_hidden, None, None)
    num_rows = p.num_rows
    check_head("student_weight", p.student_weight, None, "student_hidden", p.student_hidden)
    check_matrix("topk_ids", p.topk_ids, num_rows, None, kinds=(torch.int32, torch.int64))
    check_matrix("topk_log_probs", p.topk_log_probs, num_rows, p.topk_ids.shape[1], kinds=FLOATING)
    for name, tensor in (("topk_ids", p.topk_ids), ("topk_log_probs", p.topk_log_probs)):
        check_same(name, tensor, "student_hidden", p.student_hidden, dtype=False)
    if p.topk_ids.shape[1] > p.vocabulary:
        raise ValueError(f"topk_ids has {p.topk_ids.shape[1]} columns, the vocabulary {p.vocabulary} entries")
