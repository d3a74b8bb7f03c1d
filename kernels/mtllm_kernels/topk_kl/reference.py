"""The truth of the tests: the student's distribution in full, automatic differentiation, float64 if the inputs are.

The teacher's k log-probabilities and one tail bucket for all the rest make k + 1 outcomes; with r_t = 1 - sum_k p_t and
r_s the student's mass outside the k tokens, a row's loss is

    sum_k p_t (log p_t - log p_s) + r_t (log r_t - log r_s)

the forward KL between the two coarsened distributions. A tail that holds no teacher mass, or no token, counts nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mtllm_kernels.topk_kl.problem import TopkProblem


def tail_log_mass(topk_log_probs: Tensor) -> Tensor:
    """log r_t, (N,): the log of what k log-probabilities (N, k) leave; -inf where rounding leaves nothing."""
    kept = topk_log_probs.logsumexp(-1).clamp(max=0)
    return torch.log(-torch.expm1(kept))


def loss_rows(problem: TopkProblem) -> Tensor:
    """Unweighted loss of every row, (N,), differentiable in the student's tensors."""
    p = problem
    z = F.linear(p.student_hidden.masked_fill((p.row_weight == 0)[:, None], 0.0), p.student_weight)
    return loss_of_logits(z.to(p.accumulator) / p.temperature, p.topk_ids.long(), p.topk_log_probs.to(p.accumulator))


def loss_of_logits(z: Tensor, ids: Tensor, log_p_t: Tensor) -> Tensor:
    """Loss of every row, (N,), from the student's logits after the temperature, (N, V), and the teacher's (N, k) int64 ids and
    log-probabilities in the same type; differentiable in the logits."""
    log_p_s = z.log_softmax(-1)
    log_r_t = tail_log_mass(log_p_t)
    empty = log_p_t == -torch.inf
    kept_columns = torch.zeros_like(log_p_s).scatter_add(1, ids, (~empty).to(log_p_s.dtype)) > 0
    log_r_s = log_p_s.masked_fill(kept_columns, -torch.inf).logsumexp(-1)
    kept = log_p_t.exp() * (log_p_t - log_p_s.gather(1, ids)).masked_fill(empty, 0.0)
    has_tail = (log_r_t > -torch.inf) & (log_r_s > -torch.inf)
    tail = log_r_t.exp() * (log_r_t - log_r_s).masked_fill(~has_tail, 0.0)
    return kept.sum(-1) + tail.masked_fill(~has_tail, 0.0)
