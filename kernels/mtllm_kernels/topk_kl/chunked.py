"""Top-k KL by chunks of rows, gradient formed in the forward pass; plain PyTorch, any device.

The k logits are gathered and their columns set to the lowest logit, so one softmax over what is left gives the tail:
its log-sum-exp is exact, never 1 - sum. The gradient with respect to a logit after the temperature is

    p_s - p_t                 for a kept token
    p_s (1 - r_t / r_s)       for a token of the tail
"""

import torch
from torch import Tensor

from mtllm_kernels.linear_kl.chunked import (
    CPU_SCRATCH_BYTES,
    GPU_SCRATCH_BYTES,
    LOWEST_LOGIT,
    add_gradient,
    scratch_for,
)
from mtllm_kernels.products import GradientSum, Result, Wanted, balanced_rows, project
from mtllm_kernels.topk_kl.problem import TopkProblem
from mtllm_kernels.topk_kl.reference import tail_log_mass


def chunk_rows(problem: TopkProblem) -> int:
    """Rows a chunk, as for fused_linear_kl but with one matrix of scratch."""
    on_cpu = problem.student_hidden.device.type == "cpu"
    budget, least = (CPU_SCRATCH_BYTES, 32) if on_cpu else (GPU_SCRATCH_BYTES, 1024)
    row_bytes = problem.accumulator.itemsize * problem.student_weight.shape[0]
    return balanced_rows(problem.student_hidden.shape[0], max(budget // row_bytes, least))


def solve(problem: TopkProblem, wanted: Wanted, rows_per_chunk: int | None = None) -> Result:
    """Losses and gradients of the whole problem, chunk by chunk."""
    p = problem
    num_rows, vocabulary = p.student_hidden.shape[0], p.student_weight.shape[0]
    rows_per_chunk = rows_per_chunk or chunk_rows(p)
    loss_rows = p.student_hidden.new_empty(num_rows, dtype=p.accumulator)
    gradients = GradientSum(p.student_hidden, p.student_weight, None, p.row_weight, wanted)
    scratch = scratch_for(p.student_hidden, rows_per_chunk, vocabulary, p.accumulator)
    for start in range(0, num_rows, rows_per_chunk):
        rows = slice(start, min(start + rows_per_chunk, num_rows))
        z = scratch[: rows.stop - rows.start]
        project(p.student_hidden[rows], p.student_weight, z)
        loss, q = loss_and_q(z, p.topk_ids[rows], p.topk_log_probs[rows], p.temperature)
        loss_rows[rows] = torch.where(p.row_weight[rows] != 0, loss, 0.0)
        if wanted.any:
            add_gradient(gradients, rows, q, p.student_weight, p.row_weight, wanted)
    return gradients.result(loss_rows)


def loss_and_q(z: Tensor, ids: Tensor, log_p_t: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Losses (rows,) of one chunk and their gradient (rows, V) with respect to the logits z, whose place it takes."""
    ids, log_p_t = ids.long(), log_p_t.to(z.dtype)
    if temperature != 1:
        z.div_(temperature)
    kept = z.gather(1, ids)
    z.scatter_(1, ids, LOWEST_LOGIT)
    highest = z.amax(-1)
    torch.softmax(z, -1, out=z)  # of the tail alone
    loss, kept_gradient, tail_scale = topk_terms(kept, highest - z.amax(-1).log(), log_p_t)
    z.mul_(tail_scale[:, None]).scatter_(1, ids, kept_gradient)
    if temperature != 1:
        z.div_(temperature)
    return loss, z


def topk_terms(kept: Tensor, tail_lse: Tensor, log_p_t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From the kept logits (rows, k), the log-sum-exp of the tail (rows,) and the teacher's log-probabilities (rows, k):

    the loss (rows,), the gradient for the kept logits (rows, k), and r_s (1 - r_t / r_s) (rows,), what the tail's own
    softmax has to be multiplied by.
    """
    lse = torch.logaddexp(kept.logsumexp(-1), tail_lse)
    log_p_s, log_r_s, log_r_t = kept - lse[:, None], tail_lse - lse, tail_log_mass(log_p_t)
    p_t, r_t = log_p_t.exp(), log_r_t.exp()
    has_tail = (log_r_t > -torch.inf) & (tail_lse > LOWEST_LOGIT / 2)
    r_t = torch.where(has_tail, r_t, 0.0)
    loss = (p_t * (log_p_t - log_p_s).masked_fill(log_p_t == -torch.inf, 0.0)).sum(-1)
    loss = loss + torch.where(has_tail, r_t * (log_r_t - log_r_s), 0.0)
    mass = p_t.sum(-1) + r_t
    kept_gradient = log_p_s.exp() * mass[:, None] - p_t
    tail_scale = log_r_s.exp() * mass - r_t
    return loss + kept_gradient.sum(-1) + tail_scale, kept_gradient, tail_scale  # adds 0, cancels the lse's rounding
