"""The Triton backend of `fused_topk_kl`: cuBLAS multiplies into float32 logits, two kernels and some (N, k) arithmetic.

The k logits of a row are gathered and their columns lowered to LOWEST, so that what is left is the tail. A first kernel finds
its log-sum-exp, the terms of k + 1 buckets follow (chunked.topk_terms), a second kernel writes the tail's gradient, and the
k others are added to it. Columns are masked by the rows' padded length, as in linear_kl/device_split.py.
"""

import torch
import triton
import triton.language as tl

from mtllm_kernels.common.chunks import Chunk, Result, Wanted, solve_in_chunks
from mtllm_kernels.common.constants import FLOAT16_LARGEST
from mtllm_kernels.common.device import cdiv, chunk_rows, padded, refuse_float64
from mtllm_kernels.common.products import project
from mtllm_kernels.common.triton_math import LOWEST, tempered
from mtllm_kernels.topk_kl.chunked import lower_kept, topk_terms
from mtllm_kernels.topk_kl.problem import TopkProblem

BLOCK, NUM_WARPS = 4096, 8


@triton.jit
def _tail_logits(logits, columns, vocabulary, ld_logits, inverse_temperature):
    z = tl.load(logits + columns, mask=columns < ld_logits, other=LOWEST)
    return tl.where(columns < vocabulary, tempered(z, inverse_temperature), LOWEST)


@triton.jit(do_not_specialize=["vocabulary"])
def tail_lse_kernel(logits, lse, vocabulary, ld_logits, inverse_temperature, BLOCK: tl.constexpr):
    """lse (rows,) = log-sum-exp of logits (rows, ld_logits) / T; LOWEST columns count nothing."""
    row = tl.program_id(0).to(tl.int64)
    highest, total = tl.full((), LOWEST, tl.float32), tl.full((), 0.0, tl.float32)
    for start in range(0, vocabulary, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        z = _tail_logits(logits + row * ld_logits, columns, vocabulary, ld_logits, inverse_temperature)
        higher = tl.maximum(highest, tl.max(z, 0))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(z - higher), 0)
        highest = higher
    tl.store(lse + row, highest + tl.log(total))


@triton.jit(do_not_specialize=["vocabulary"])
def tail_gradient_kernel(
    logits, lse, scale, gradient, vocabulary, ld_logits, ld_gradient, inverse_temperature, BLOCK: tl.constexpr
):
    """gradient = scale (rows,) times the tail's softmax, one block of one row; rows of scale 0 get 0."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = block * BLOCK + tl.arange(0, BLOCK)
    z = _tail_logits(logits + row * ld_logits, columns, vocabulary, ld_logits, inverse_temperature)
    factor = tl.load(scale + row)
    value = tl.where(factor == 0.0, 0.0, factor * tl.exp(z - tl.load(lse + row)))
    tl.store(gradient + row * ld_gradient + columns, value.to(gradient.dtype.element_ty), mask=columns < ld_gradient)


def solve(problem: TopkProblem, wanted: Wanted, rows_per_chunk: int | None = None) -> Result:
    """Losses and gradients of the whole problem, chunk by chunk."""
    p, head = problem, problem.student_weight
    refuse_float64("triton", p)
    rows_per_chunk = rows_per_chunk or chunk_rows(p.student_hidden, p.vocabulary, 4 + head.dtype.itemsize)
    with torch.cuda.device_of(head):
        return solve_in_chunks(p, wanted, rows_per_chunk, lambda rows: _chunk(p, rows, wanted.any))


def _chunk(p: TopkProblem, rows: slice, wants_q: bool) -> Chunk:
    """Rows of weight 0 have 0 in q."""
    num_rows, vocabulary, device = rows.stop - rows.start, p.vocabulary, p.student_hidden.device
    ids, log_p_t = p.topk_ids[rows].long(), p.topk_log_probs[rows].float()
    z = padded(num_rows, vocabulary, torch.float32, device)
    project(p.student_hidden[rows], p.student_weight, z)
    kept = z.gather(1, ids) / p.temperature
    lower_kept(z, ids, log_p_t)
    lse = torch.empty(num_rows, dtype=torch.float32, device=device)
    tail_lse_kernel[(num_rows,)](z, lse, vocabulary, z.stride(0), 1 / p.temperature, BLOCK=BLOCK, num_warps=NUM_WARPS)
    loss, kept_gradient, tail_scale = topk_terms(kept, lse, log_p_t)
    if not wants_q:
        return Chunk(loss, None)
    # Neither gradient exceeds 1 before it is divided by T.
    in_float16 = p.student_weight.dtype == torch.float16
    scale = FLOAT16_LARGEST if in_float16 else 1 / p.temperature
    there = p.row_weight[rows] != 0
    tail_scale = torch.where(there, tail_scale * scale, 0.0)
    kept_gradient = torch.where(there[:, None], kept_gradient * scale, 0.0)
    q = padded(num_rows, vocabulary, p.student_weight.dtype, device)
    tail_gradient_kernel[(num_rows, cdiv(vocabulary, BLOCK))](
        z, lse, tail_scale, q, vocabulary, z.stride(0), q.stride(0), 1 / p.temperature, BLOCK=BLOCK, num_warps=NUM_WARPS
    )
    unit = 1 / (scale * p.temperature) if in_float16 else 1.0
    return Chunk(loss, q.scatter_add_(1, ids, kept_gradient.to(q.dtype)), unit)
