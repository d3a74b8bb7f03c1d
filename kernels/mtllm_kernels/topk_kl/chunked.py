"""Top-k KL by chunks of rows, gradient formed in the forward pass; plain PyTorch, any device.

The k logits are gathered and their columns lowered to LOWEST, so one softmax over what is left gives the tail, empty slots'
tokens included: its log-sum-exp is exact, never 1 - sum. The gradient with respect to a logit after the temperature is

    p_s - p_t                 for a kept token
    p_s (1 - r_t / r_s)       for a token of the tail
"""

import torch
from torch import Tensor

from mtllm_kernels.common.chunks import Chunk, Result, Wanted, chunk_of, solve_in_chunks
from mtllm_kernels.common.constants import LOWEST
from mtllm_kernels.common.products import project
from mtllm_kernels.common.scratch import chunk_rows, scratch_for
from mtllm_kernels.topk_kl.problem import TopkProblem
from mtllm_kernels.topk_kl.reference import tail_log_mass


def solve(problem: TopkProblem, wanted: Wanted, rows_per_chunk: int | None = None) -> Result:
    """Losses and gradients of the whole problem, chunk by chunk."""
    p = problem
    rows_per_chunk = rows_per_chunk or chunk_rows(p, num_matrices=1)
    scratch = scratch_for(p.student_hidden, rows_per_chunk, p.vocabulary, p.accumulator)

    def chunk(rows: slice) -> Chunk:
        z = scratch[: rows.stop - rows.start]
        project(p.student_hidden[rows], p.student_weight, z)
        loss, q = loss_and_q(z, p.topk_ids[rows], p.topk_log_probs[rows], p.temperature)
        return chunk_of(p, rows, wanted, loss, q)

    return solve_in_chunks(p, wanted, rows_per_chunk, chunk)


def loss_and_q(z: Tensor, ids: Tensor, log_p_t: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Losses (rows,) of one chunk and their gradient (rows, V) with respect to the logits z, whose place it takes."""
    ids, log_p_t = ids.long(), log_p_t.to(z.dtype)
    if temperature != 1:
        z.div_(temperature)
    kept = z.gather(1, ids)
    lower_kept(z, ids, log_p_t)
    highest = z.amax(-1)
    torch.softmax(z, -1, out=z)  # of the tail alone
    loss, kept_gradient, tail_scale = topk_terms(kept, highest - z.amax(-1).log(), log_p_t)
    z.mul_(tail_scale[:, None]).scatter_add_(1, ids, kept_gradient)
    if temperature != 1:
        z.div_(temperature)
    return loss, z


def lower_kept(z: Tensor, ids: Tensor, log_p_t: Tensor) -> None:
    """Lowers the kept tokens' logits in z (rows, V) to LOWEST. An empty slot lowers nothing, whatever its id."""
    z.scatter_add_(1, ids, torch.where(log_p_t == -torch.inf, 0.0, LOWEST).to(z.dtype))


def topk_terms(kept: Tensor, tail_lse: Tensor, log_p_t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From the kept logits (rows, k), the log-sum-exp of the tail (rows,) and the teacher's log-probabilities (rows, k):

    the loss (rows,), the gradient for the kept logits (rows, k), and r_s (1 - r_t / r_s) (rows,), what the tail's own
    softmax has to be multiplied by.
    """
    empty = log_p_t == -torch.inf
    kept = kept.masked_fill(empty, -torch.inf)
    lse = torch.logaddexp(kept.logsumexp(-1), tail_lse)
    log_p_s, log_r_s, log_r_t = kept - lse[:, None], tail_lse - lse, tail_log_mass(log_p_t)
    p_t, r_t = log_p_t.exp(), log_r_t.exp()
    has_tail = (log_r_t > -torch.inf) & (tail_lse > LOWEST / 2)
    r_t = torch.where(has_tail, r_t, 0.0)
    loss = (p_t * (log_p_t - log_p_s).masked_fill(empty, 0.0)).sum(-1)
    loss = loss + torch.where(has_tail, r_t * (log_r_t - log_r_s), 0.0)
    mass = p_t.sum(-1) + r_t
    kept_gradient = log_p_s.exp() * mass[:, None] - p_t
    tail_scale = log_r_s.exp() * mass - r_t
    return loss + kept_gradient.sum(-1) + tail_scale, kept_gradient, tail_scale  # adds 0, cancels the lse's rounding
