"""The truth of every test: logits in full, automatic differentiation, float64 if the inputs are.

Conventions: z = h W^T, then the bias, then the soft cap z -> c tanh(z / c), then / T. With p_s, p_t the softmaxes of the
two sides and m = beta p_t + (1 - beta) p_s, a row's divergence is

    forward_kl   sum_v p_t (log p_t - log p_s)
    reverse_kl   sum_v p_s (log p_s - log p_t)
    jsd          beta KL(p_t || m) + (1 - beta) KL(p_s || m)

and its loss (1 - label_weight) * divergence * (T^2 or 1) + label_weight * cross-entropy at T = 1.
Logits are rounded to the inputs' dtype, as eager PyTorch does; the softmax is float32 at least.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mtllm_kernels.common.constants import IGNORED_LABEL
from mtllm_kernels.linear_kl.problem import Problem


def logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    """(N, V) in float32 or float64, before the temperature."""
    z = F.linear(hidden, weight, None if bias is None else bias.to(hidden.dtype))
    z = z if z.dtype == torch.float64 else z.float()
    return z if softcap is None else softcap * torch.tanh(z / softcap)


def divergence_rows(log_p_s: Tensor, log_p_t: Tensor, kind: str, beta: float) -> Tensor:
    """(N,) from two (N, V) matrices of log-probabilities. A column at -inf on both sides counts nothing."""
    absent = (log_p_s == -math.inf) & (log_p_t == -math.inf)
    log_p_s, log_p_t = log_p_s.masked_fill(absent, 0.0), log_p_t.masked_fill(absent, 0.0)
    p_s, p_t = log_p_s.exp().masked_fill(absent, 0.0), log_p_t.exp().masked_fill(absent, 0.0)
    if kind == "forward_kl":
        return _expectation(p_t, log_p_t - log_p_s)
    if kind == "reverse_kl":
        return _expectation(p_s, log_p_s - log_p_t)
    log_m = torch.logaddexp(log_p_t + math.log(beta), log_p_s + math.log1p(-beta))
    return beta * _expectation(p_t, log_p_t - log_m) + (1 - beta) * _expectation(p_s, log_p_s - log_m)


def _expectation(p: Tensor, value: Tensor) -> Tensor:
    return (p * value.masked_fill(p == 0, 0.0)).sum(-1)  # 0 * inf counts 0


def loss_rows(problem: Problem) -> Tensor:
    """Unweighted loss of every row, (N,), differentiable in all the student's tensors."""
    p = problem
    gone = (p.row_weight == 0)[:, None]  # such rows may hold anything, NaN included
    z_s = logits(p.student_hidden.masked_fill(gone, 0.0), p.student_weight, p.student_bias, p.softcap)
    with torch.no_grad():
        z_t = logits(p.teacher_hidden.masked_fill(gone, 0.0), p.teacher_head, p.teacher_bias, p.softcap)
    log_p_s, log_p_t = (z_s / p.temperature).log_softmax(-1), (z_t / p.temperature).log_softmax(-1)
    if p.label_weight == 1:  # beside it even an infinite divergence counts nothing
        rows = torch.zeros_like(z_s[:, 0])
    else:
        rows = (1 - p.label_weight) * p.divergence_scale * divergence_rows(log_p_s, log_p_t, p.divergence, p.beta)
    if p.labels is None or p.label_weight == 0:
        return rows
    cross_entropy = F.cross_entropy(z_s, p.labels, ignore_index=IGNORED_LABEL, reduction="none")
    return rows + p.label_weight * cross_entropy
