"""The split plan: cuBLAS multiplies into float32 logits, one kernel forms statistics, loss and gradient.

One program for a row. It reads the row's two vectors of logits twice (three times for jsd): the log-sum-exps first, then
the loss, column by column, and its gradient. Every option is honoured. Columns are masked by the padded length of the rows,
a multiple of 16, and those beyond the vocabulary by value: so loads and stores are of 16 bytes whatever the vocabulary.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtllm_kernels.common.chunks import Chunk
from mtllm_kernels.common.constants import IGNORED_LABEL
from mtllm_kernels.common.triton_math import (
    LOWEST,
    at_least,
    divergence_terms,
    float16_unit,
    statistics_terms,
    tanh,
    tempered,
)
from mtllm_kernels.linear_kl.problem import Problem

PLAIN, WITH_OPTIONS = (4096, 8), (1024, 8)  # block, warps
IGNORED = tl.constexpr(IGNORED_LABEL)


@triton.jit
def _logits(z, bias, columns, vocabulary, ld_logits, softcap, HAS_BIAS: tl.constexpr, HAS_CAP: tl.constexpr):
    """Logits at T = 1 of some columns of one row; those beyond the vocabulary are LOWEST."""
    inside = columns < vocabulary
    value = tl.load(z + columns, mask=columns < ld_logits, other=LOWEST)
    if HAS_BIAS:
        value += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_CAP:
        value = softcap * tanh(value / softcap)
    return tl.where(inside, at_least(value, LOWEST), LOWEST)


@triton.jit
def _accumulate(highest, total, values):
    """Running maximum and running sum of exp(value - maximum), with one more block."""
    higher = tl.maximum(highest, tl.max(values, 0))
    scale = tl.exp(highest - higher)
    return higher, total * scale + tl.sum(tl.exp(values - higher), 0), scale


@triton.jit(do_not_specialize=["vocabulary"])
def split_kernel(
    student, teacher, student_bias, teacher_bias, labels, row_weight, losses, gradient, units, vocabulary, ld_logits,
    ld_gradient, inverse_temperature, beta, rest, softcap, divergence_scale, label_weight,
    KIND: tl.constexpr, HAS_STUDENT_BIAS: tl.constexpr, HAS_TEACHER_BIAS: tl.constexpr, HAS_CAP: tl.constexpr,
    HAS_LABELS: tl.constexpr, WANTS_GRADIENT: tl.constexpr, HAS_UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """student, teacher (rows, ld_logits) float32 products -> losses (rows,) and gradient (rows, ld_gradient).

    The gradient is with respect to h W^T + b, in the pointer's dtype; rows of weight 0 get 0. HAS_UNIT: it is divided by the
    row's unit, which goes into units (rows,).
    """
    row = tl.program_id(0).to(tl.int64)
    student += row * ld_logits
    teacher += row * ld_logits
    gradient += row * ld_gradient
    offsets = tl.arange(0, BLOCK)
    if tl.load(row_weight + row) == 0.0:
        tl.store(losses + row, 0.0)
        if HAS_UNIT:
            tl.store(units + row, 1.0)
        if WANTS_GRADIENT:
            for start in range(0, vocabulary, BLOCK):
                columns = start + offsets
                tl.store(gradient + columns, tl.zeros((BLOCK,), gradient.dtype.element_ty), mask=columns < ld_gradient)
        return

    label = tl.full((), -1, tl.int64)
    if HAS_LABELS:
        label = tl.load(labels + row)
    highest_s, total_s = tl.full((), LOWEST, tl.float32), tl.full((), 0.0, tl.float32)
    highest_t, total_t = tl.full((), LOWEST, tl.float32), tl.full((), 0.0, tl.float32)
    highest_z, total_z = tl.full((), LOWEST, tl.float32), tl.full((), 0.0, tl.float32)
    cross, z_label, mean = tl.full((), 0.0, tl.float32), tl.full((), 0.0, tl.float32), tl.full((), 0.0, tl.float32)
    far_mean = tl.full((), 0.0, tl.float32)
    for start in range(0, vocabulary, BLOCK):
        columns = start + offsets
        z = _logits(student, student_bias, columns, vocabulary, ld_logits, softcap, HAS_STUDENT_BIAS, HAS_CAP)
        t = _logits(teacher, teacher_bias, columns, vocabulary, ld_logits, softcap, HAS_TEACHER_BIAS, HAS_CAP)
        s, t = tempered(z, inverse_temperature), tempered(t, inverse_temperature)
        highest_s, total_s, scale = _accumulate(highest_s, total_s, s)
        highest_t, total_t, _ = _accumulate(highest_t, total_t, t)
        if KIND == "reverse_kl":
            cross = cross * scale + tl.sum(tl.exp(s - highest_s) * (t - s), 0)
        if HAS_LABELS:
            highest_z, total_z, _ = _accumulate(highest_z, total_z, z)
            z_label += tl.sum(tl.where(columns == label, z, 0.0), 0)
    shift = (highest_t - highest_s) + (tl.log(total_t) - tl.log(total_s))
    if KIND == "reverse_kl":
        mean = shift - cross / total_s
    if KIND == "jsd":
        for start in range(0, vocabulary, BLOCK):
            columns = start + offsets
            z = _logits(student, student_bias, columns, vocabulary, ld_logits, softcap, HAS_STUDENT_BIAS, HAS_CAP)
            t = _logits(teacher, teacher_bias, columns, vocabulary, ld_logits, softcap, HAS_TEACHER_BIAS, HAS_CAP)
            s, t = tempered(z, inverse_temperature), tempered(t, inverse_temperature)
            near, far = statistics_terms(tl.exp(s - highest_s) / total_s, t - s - shift, beta, rest, KIND)
            mean += tl.sum(near, 0)
            far_mean += tl.sum(far, 0)

    scale = divergence_scale * inverse_temperature
    unit = tl.full((), 1.0, tl.float32)
    if HAS_UNIT:
        unit = float16_unit(mean, scale, beta, rest, KIND)
        if HAS_LABELS:
            unit += float16_unit(mean, label_weight, beta, rest, "forward_kl")
        tl.store(units + row, unit)
    loss = tl.full((), 0.0, tl.float32)
    has_label = label != IGNORED
    for start in range(0, vocabulary, BLOCK):
        columns = start + offsets
        z = _logits(student, student_bias, columns, vocabulary, ld_logits, softcap, HAS_STUDENT_BIAS, HAS_CAP)
        t = _logits(teacher, teacher_bias, columns, vocabulary, ld_logits, softcap, HAS_TEACHER_BIAS, HAS_CAP)
        s, t = tempered(z, inverse_temperature), tempered(t, inverse_temperature)
        p_s, p_t = tl.exp(s - highest_s) / total_s, tl.exp(t - highest_t) / total_t
        terms, q = divergence_terms(p_s, p_t, t - s - shift, mean, far_mean, beta, rest, KIND)
        loss += tl.sum(terms, 0)
        if WANTS_GRADIENT:
            q *= scale
            if HAS_LABELS:
                one_hot = tl.where(columns == label, 1.0, 0.0)
                q += tl.where(has_label, label_weight * (tl.exp(z - highest_z) / total_z - one_hot), 0.0)
            if HAS_CAP:
                q *= 1.0 - (z / softcap) * (z / softcap)
            if HAS_UNIT:
                q /= unit
            tl.store(gradient + columns, q.to(gradient.dtype.element_ty), mask=columns < ld_gradient)
    loss = tl.where(divergence_scale == 0.0, 0.0, loss * divergence_scale)  # 0 * inf
    if HAS_LABELS:
        loss += tl.where(has_label, label_weight * ((highest_z - z_label) + tl.log(total_z)), 0.0)
    tl.store(losses + row, loss)


def statistics_and_gradient(
    problem: Problem, rows: slice, student: Tensor, teacher: Tensor, gradient: Tensor | None
) -> Chunk:
    """Losses of one chunk from its float32 products (rows, V), row-padded; their gradient, if wanted, into `gradient`."""
    p = problem
    num_rows, vocabulary = student.shape
    losses = torch.empty(num_rows, dtype=torch.float32, device=student.device)
    has_unit = gradient is not None and gradient.dtype == torch.float16
    units = torch.empty_like(losses) if has_unit else losses
    has_options = any(x is not None for x in (p.student_bias, p.teacher_bias, p.softcap, p.labels))
    block, num_warps = WITH_OPTIONS if has_options else PLAIN
    target = student if gradient is None else gradient  # a pointer is needed, nothing is written through it
    split_kernel[(num_rows,)](
        student,
        teacher,
        student if p.student_bias is None else p.student_bias.contiguous(),
        student if p.teacher_bias is None else p.teacher_bias.contiguous(),
        p.labels[rows].contiguous() if p.has_labels and p.labels is not None else p.row_weight,
        p.row_weight[rows],
        losses,
        target,
        units,
        vocabulary,
        student.stride(0),
        target.stride(0),
        1 / p.temperature,
        p.beta,
        1 - p.beta,
        p.softcap or 1.0,
        p.divergence_scale * (1 - p.label_weight),
        p.label_weight,
        KIND=p.divergence,
        HAS_STUDENT_BIAS=p.student_bias is not None,
        HAS_TEACHER_BIAS=p.teacher_bias is not None,
        HAS_CAP=p.softcap is not None,
        HAS_LABELS=p.has_labels,
        WANTS_GRADIENT=gradient is not None,
        HAS_UNIT=has_unit,
        BLOCK=block,
        num_warps=num_warps,
    )
    return Chunk(losses, gradient, units if has_unit else 1.0)
