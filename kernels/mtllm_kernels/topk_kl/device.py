"""The Triton backend of `fused_topk_kl`: cuBLAS multiplies into float32 logits, two kernels and some (N, k) arithmetic.

The k logits of a row are gathered and their columns set to the lowest logit, so that what is left is the tail. A first
kernel finds its log-sum-exp, the terms of k + 1 buckets follow (chunked.topk_terms), a second kernel writes the tail's
gradient, and the k others are scattered into it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtllm_kernels.linear_kl.chunked import LOWEST_LOGIT
from mtllm_kernels.linear_kl.device import chunk_rows, padded
from mtllm_kernels.products import GradientSum, Result, Wanted, project, q_scale
from mtllm_kernels.topk_kl.chunked import topk_terms
from mtllm_kernels.topk_kl.problem import TopkProblem
from mtllm_kernels.triton_math import LOWEST

BLOCK, NUM_WARPS = 4096, 8


@triton.jit
def tail_lse_kernel(logits, lse, vocabulary, ld_logits, inverse_temperature, BLOCK: tl.constexpr):
    """lse (rows,) = log-sum-exp of logits (rows, ld_logits) / T; LOWEST columns count nothing."""
    row = tl.program_id(0).to(tl.int64)
    highest, total = tl.full((), LOWEST, tl.float32), tl.full((), 0.0, tl.float32)
    for start in range(0, vocabulary, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        z = tl.load(logits + row * ld_logits + columns, mask=columns < vocabulary, other=LOWEST)
        z = tl.maximum(z * inverse_temperature, LOWEST)
        higher = tl.maximum(highest, tl.max(z, 0))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(z - higher), 0)
        highest = higher
    tl.store(lse + row, highest + tl.log(total))


@triton.jit
def tail_gradient_kernel(
    logits, lse, scale, gradient, vocabulary, ld_logits, ld_gradient, inverse_temperature, BLOCK: tl.constexpr
):
    """gradient = scale (rows,) times the tail's softmax, one block of one row; rows of scale 0 get 0."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = block * BLOCK + tl.arange(0, BLOCK)
    inside = columns < vocabulary
    z = tl.load(logits + row * ld_logits + columns, mask=inside, other=LOWEST) * inverse_temperature
    factor = tl.load(scale + row)
    value = tl.where(factor == 0.0, 0.0, factor * tl.exp(z - tl.load(lse + row)))
    tl.store(gradient + row * ld_gradient + columns, value.to(gradient.dtype.element_ty), mask=inside)


def solve(problem: TopkProblem, wanted: Wanted, rows_per_chunk: int | None = None) -> Result:
    """Losses and gradients of the whole problem, chunk by chunk."""
    p = problem
    if p.accumulator == torch.float64:
        raise NotImplementedError(f"backend 'triton' has no float64; student_hidden is {p.student_hidden.dtype}")
    num_rows, head = p.student_hidden.shape[0], p.student_weight
    rows_per_chunk = rows_per_chunk or chunk_rows(p.student_hidden, head.shape[0], 4 + head.dtype.itemsize)
    loss_rows = torch.empty(num_rows, dtype=torch.float32, device=head.device)
    gradients = GradientSum(p.student_hidden, head, None, p.row_weight, wanted)
    with torch.cuda.device_of(head):
        for start in range(0, num_rows, rows_per_chunk):
            rows = slice(start, min(start + rows_per_chunk, num_rows))
            loss_rows[rows], q = _loss_and_q(p, rows, wanted.any)
            if q is not None:
                gradients.add(rows, q, q_scale(head))
            del q  # before the next chunk's scratch is made
    return gradients.result(loss_rows)


def _loss_and_q(p: TopkProblem, rows: slice, wants_q: bool) -> tuple[Tensor, Tensor | None]:
    """Losses (rows,) of one chunk and, times q_scale, their gradient (rows, V); rows of weight 0 have 0 in both."""
    num_rows, vocabulary, device = rows.stop - rows.start, p.student_weight.shape[0], p.student_hidden.device
    ids, log_p_t = p.topk_ids[rows].long(), p.topk_log_probs[rows].float()
    z = padded(num_rows, vocabulary, torch.float32, device)
    project(p.student_hidden[rows], p.student_weight, z)
    kept = z.gather(1, ids) / p.temperature
    z.scatter_(1, ids, LOWEST_LOGIT)
    lse = torch.empty(num_rows, dtype=torch.float32, device=device)
    tail_lse_kernel[(num_rows,)](z, lse, vocabulary, z.stride(0), 1 / p.temperature, BLOCK=BLOCK, num_warps=NUM_WARPS)
    loss, kept_gradient, tail_scale = topk_terms(kept, lse, log_p_t)
    there = p.row_weight[rows] != 0
    loss = torch.where(there, loss, 0.0)
    if not wants_q:
        return loss, None
    scale = q_scale(p.student_weight) / p.temperature
    tail_scale = torch.where(there, tail_scale * scale, 0.0)
    kept_gradient = torch.where(there[:, None], kept_gradient * scale, 0.0)
    q = padded(num_rows, vocabulary, p.student_weight.dtype, device)
    tail_gradient_kernel[(num_rows, triton.cdiv(vocabulary, BLOCK))](
        z, lse, tail_scale, q, vocabulary, z.stride(0), q.stride(0), 1 / p.temperature, BLOCK=BLOCK, num_warps=NUM_WARPS
    )
    return loss, q.scatter_(1, ids, kept_gradient.to(q.dtype))
