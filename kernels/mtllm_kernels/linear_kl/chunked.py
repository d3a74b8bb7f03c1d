"""Projection and divergence by chunks of rows, gradient formed in the forward pass; plain PyTorch, any device.

With logits s, t (after bias, soft cap and temperature), their softmaxes p_s, p_t and x = log p_t - log p_s, a row has

    forward_kl   loss = sum p_t x - (p_t - p_s)                       q = p_s - p_t
    reverse_kl   loss = sum (p_t - p_s) - p_s x                       q = -p_s (x + loss)
    jsd          u = -log(1 + beta (e^x - 1)), K = sum p_s u          q = (1 - beta) p_s (u - K)
                 loss = sum beta p_t (x + u) + (1 - beta) p_s u

where q is the gradient of its loss with respect to s. The terms in p_t - p_s sum to zero in exact arithmetic; with them
every summand is of second order in x, so a rounding error common to a row cancels. Everything between the products is
float32 (float64 for float64 inputs). Row weights multiply the (rows, D) product, never q, so float16 cannot underflow.
"""

import math

import torch
from torch import Tensor

from mtllm_kernels.common.chunks import Chunk, Result, Wanted, chunk_of, solve_in_chunks
from mtllm_kernels.common.constants import IGNORED_LABEL, LARGEST_EXPONENT, LOWEST, ONE_SIDED
from mtllm_kernels.common.products import project
from mtllm_kernels.common.scratch import chunk_rows, scratch_for
from mtllm_kernels.linear_kl.problem import Problem

CPU_BLOCK_BYTES = 2**22  # of a block's logits, so that its passes stay in the cache


def block_rows(problem: Problem, rows_per_chunk: int) -> int:
    """Rows whose elementwise passes follow each other: few on a CPU, the whole chunk on a GPU."""
    if problem.student_hidden.device.type != "cpu":
        return rows_per_chunk
    row_bytes = problem.accumulator.itemsize * problem.vocabulary
    return min(max(CPU_BLOCK_BYTES // row_bytes, 1), rows_per_chunk)


def solve(problem: Problem, wanted: Wanted, rows_per_chunk: int | None = None) -> Result:
    """Losses and gradients of the whole problem, chunk by chunk."""
    p = problem
    num_matrices = 2 if p.student_hidden.device.type == "cpu" else 3
    rows_per_chunk = rows_per_chunk or chunk_rows(p, num_matrices)
    block = block_rows(p, rows_per_chunk)
    scratch = scratch_for(p.student_hidden, 2 * rows_per_chunk + block, p.vocabulary, p.accumulator)

    def chunk(rows: slice) -> Chunk:
        loss, q = _loss_and_q(p, rows, scratch, block, wanted.any)
        return chunk_of(p, rows, wanted, loss, q)

    return solve_in_chunks(p, wanted, rows_per_chunk, chunk)


def _loss_and_q(p: Problem, rows: slice, scratch: Tensor, block: int, wants_q: bool) -> tuple[Tensor, Tensor]:
    """Losses (rows,) of one chunk and their gradient (rows, V) with respect to h W^T + b; it lies in the scratch."""
    num_rows = rows.stop - rows.start
    s, t = scratch[: 2 * num_rows].view(2, num_rows, -1)
    _logits(p, rows, scratch[: 2 * num_rows])
    losses = []
    for start in range(0, num_rows, block):
        part = slice(start, min(start + block, num_rows))
        spare = scratch[-block:][: part.stop - start]
        losses.append(_block(p, slice(rows.start + start, rows.start + part.stop), s[part], t[part], spare, wants_q))
    return torch.cat(losses), s


def _block(p: Problem, rows: slice, s: Tensor, t: Tensor, spare: Tensor, wants_q: bool) -> Tensor:
    """Losses of some rows of a chunk; their gradient takes the place of s."""
    z = s.clone() if p.has_labels or p.softcap is not None else None  # logits at T = 1
    scale = p.divergence_scale * (1 - p.label_weight)
    divergence = _divergence(p, s, t, spare)
    loss = divergence * scale if scale else torch.zeros_like(divergence)  # 0 * inf
    if wants_q and scale != p.temperature:
        s.mul_(scale / p.temperature)
    if z is not None and p.has_labels:
        loss = loss + p.label_weight * _cross_entropy(p, rows, z, s)
    if z is not None and p.softcap is not None and wants_q:
        s.mul_(z.div_(p.softcap).square_().neg_().add_(1))  # d(c tanh(z / c)) / dz
    return loss


def _logits(p: Problem, rows: slice, out: Tensor) -> None:
    """Logits of both sides before the temperature into out (2 * rows, V); a shared head is read once."""
    student, teacher = p.student_hidden[rows], p.teacher_hidden[rows]
    if p.shared_head:
        project(torch.cat((student, teacher)), p.student_weight, out)
    else:
        project(student, p.student_weight, out[: student.shape[0]])
        project(teacher, p.teacher_head, out[student.shape[0] :])
    for side, bias in zip(out.chunk(2), (p.student_bias, p.teacher_bias), strict=True):
        if bias is not None:
            side.add_(bias).clamp_(min=LOWEST)
    if p.softcap is not None:
        out.div_(p.softcap).tanh_().mul_(p.softcap)


def _divergence(p: Problem, s: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """Losses (rows,); q with respect to the logits after the temperature replaces s. Takes the place of t and x too."""
    log_normalizers = []
    for side in (s, t):
        if p.temperature != 1:
            side.div_(p.temperature).clamp_(min=LOWEST)
    torch.sub(t, s, out=x)
    for side in (s, t):
        highest = side.amax(-1)
        torch.softmax(side, -1, out=side)
        log_normalizers.append(highest - side.amax(-1).log())
    x.sub_((log_normalizers[1] - log_normalizers[0])[:, None])
    p_s, p_t = s, t
    one_sided = _one_sided(p, x)
    if p.divergence == "forward_kl":
        loss = x.mul_(p_t).sum(-1)
        loss += p_s.sub_(p_t).sum(-1)
    elif p.divergence == "reverse_kl":
        loss = p_t.sub_(p_s).sum(-1)
        weighted = torch.mul(p_s, x, out=t)
        loss -= weighted.sum(-1)
        p_s.mul_(-loss[:, None]).sub_(weighted)
    else:
        loss = _jensen_shannon(p, p_s, p_t, x)
    return loss if one_sided is None else torch.where(one_sided, torch.inf, loss)


def _one_sided(p: Problem, x: Tensor) -> Tensor | None:
    """(rows,) whether a KL is infinite: one side lacks a column that the other has. Only a bias takes columns away."""
    if p.divergence == "jsd" or (p.student_bias is None and p.teacher_bias is None):
        return None
    least = ONE_SIDED / max(p.temperature, 1.0)
    return x.amax(-1) > least if p.divergence == "forward_kl" else x.amin(-1) < -least


def _jensen_shannon(p: Problem, p_s: Tensor, p_t: Tensor, x: Tensor) -> Tensor:
    """Losses (rows,); q replaces p_s. Takes the place of x.

    Where the sides have all but nothing in common u is -log(1 - beta) nearly everywhere and u - K cancels: there both are
    taken relative to that limit, u' = u + log(1 - beta) = -log(1 + beta / (1 - beta) e^x).
    """
    beta, rest = p.beta, 1 - p.beta
    u = _negative_log_mixture(x.clamp_(max=LARGEST_EXPONENT), beta)
    mean = (p_s * u).sum(-1)
    saturated = mean > -0.5 * math.log(rest)
    if x.device.type != "cpu" or saturated.any():
        far = torch.nn.functional.softplus(x + math.log(beta / rest)).neg_()
        far_mean = (p_s * far).sum(-1)
        loss = x.add_(u).mul_(p_t).sum(-1) * beta + mean * rest
        u = torch.where(saturated[:, None], far, u)
        mean = torch.where(saturated, far_mean, mean)
    else:
        loss = x.add_(u).mul_(p_t).sum(-1) * beta + mean * rest
    p_s.mul_(u.sub_(mean[:, None])).mul_(rest)
    return loss


def _negative_log_mixture(x: Tensor, beta: float) -> Tensor:
    """u = -log(1 + beta (e^x - 1)), good near x = 0 and, for a beta near 1, where e^x is next to nothing."""
    u = torch.expm1(x).mul_(beta).log1p_()
    if 1 - beta < 1e-2:
        u = torch.where(x < -1, torch.exp(x).mul_(beta).add_(1 - beta).log_(), u)
    return u.neg_()


def _cross_entropy(p: Problem, rows: slice, z: Tensor, q: Tensor) -> Tensor:
    """Cross-entropy (rows,) at T = 1, zero where there is no label; adds label_weight times its gradient to q."""
    assert p.labels is not None
    labels = p.labels[rows]
    labelled = labels != IGNORED_LABEL
    index = labels.where(labelled, 0)[:, None]
    log_p = z.log_softmax(-1)
    loss = -log_p.gather(1, index).squeeze(1) * labelled
    share = (labelled.to(q.dtype) * p.label_weight)[:, None]
    q.addcmul_(log_p.exp_(), share)
    q.scatter_add_(1, index, -share)
    return loss
