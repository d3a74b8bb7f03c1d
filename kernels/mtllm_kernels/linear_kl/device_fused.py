"""The fused plan: both products, the online statistics and four bytes an element of scratch, in one kernel.

1. `products_kernel` multiplies a tile of student logits s, parks it bit by bit in the scratch (its upper 16 bits where E
   will be, its lower ones where D will be), negates the accumulator and goes on with the teacher: what is left is
   t - s in float32. Then, a quarter of the tile's columns at a time, it reads s back and writes

       E = exp(s - max s) or -exp(t - max t) of the part, the larger (for reverse_kl the former while it can be held),
       D = (t - s) - c, c being the difference of the part's two log-sum-exps (for reverse_kl the student's mean of t - s),

   E in bfloat16 and D in float16 (float32 both for float32 inputs), with the part's statistics in float32. D is rounded
   after the subtraction, so it keeps its relative precision however close the two sides are; and the probability that
   weighs most in the gradient never depends on it, so that stays good however far apart they are.
2. `combine_kernel` turns the parts' statistics into the row's, and into the parts' factors.
3. `gradient_kernel`, elementwise, turns E and D into loss and gradient, and writes the gradient over E.

No bias, soft cap or label: these need the logits themselves. Scratch is masked by the padded length of its rows, a multiple
of 16, never by the vocabulary: so loads and stores are of 16 bytes whatever the vocabulary. There E is 0 beyond it.
"""

import triton
import triton.language as tl

from mtllm_kernels.common.triton_math import (
    LN_2,
    LOG2_E,
    LOWEST,
    at_least,
    at_most,
    columns_in_half,
    divergence_terms,
    float16_unit,
    join_bits,
    split_bits,
    statistics_terms,
    to_bfloat16,
)

PARTS = tl.constexpr(4)  # of a tile's columns
SMALLEST_E = tl.constexpr(2.0**-100)
LARGEST_EXPONENT_2 = tl.constexpr(126.0)
LARGEST_D = tl.constexpr(60000.0)


@triton.jit
def _multiply(accumulator, hidden, weight, first_row, first_column, num_rows, vocabulary, width, ld_hidden, ld_weight,
              BM: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr, DESCRIPTORS: tl.constexpr,
              PRECISION: tl.constexpr):  # fmt: skip
    """accumulator + hidden[first_row:][:BM] weight[first_column:][:BV]^T; what lies outside counts as 0."""
    rows, columns, inner = first_row + tl.arange(0, BM), first_column + tl.arange(0, BV), tl.arange(0, BK)
    if DESCRIPTORS:
        for k in range(0, width, BK):
            h, w = hidden.load([first_row, k]), weight.load([first_column, k])
            accumulator = tl.dot(h, w.T, accumulator, input_precision=PRECISION)
    else:
        h_at = hidden + rows[:, None].to(tl.int64) * ld_hidden + inner[None, :]
        w_at = weight + columns[:, None].to(tl.int64) * ld_weight + inner[None, :]
        for k in range(0, width, BK):
            there = inner[None, :] < width - k
            h = tl.load(h_at + k, mask=(rows < num_rows)[:, None] & there, other=0.0)
            w = tl.load(w_at + k, mask=(columns < vocabulary)[:, None] & there, other=0.0)
            accumulator = tl.dot(h, w.T, accumulator, input_precision=PRECISION)
    return accumulator


@triton.jit
def _park(student, exponentials, deltas, at, held, PACKED: tl.constexpr):
    """Student products of a part into the scratch, exactly."""
    if PACKED:
        upper, lower = split_bits(student)
        tl.store(exponentials + at, upper.to(tl.bfloat16, bitcast=True), mask=held)
        tl.store(deltas + at, lower.to(tl.float16, bitcast=True), mask=held)
    else:
        tl.store(exponentials + at, student, mask=held)


@triton.jit
def _finish(difference, exponentials, deltas, statistics, at, held, inside, part_at, statistic_stride, row_inside,
            to_base_2, KEEPS_STUDENT: tl.constexpr, PACKED: tl.constexpr, INTERPRETED: tl.constexpr):  # fmt: skip
    """Scratch and statistics of a part, from the parked student products and teacher minus student."""
    if PACKED:
        upper = tl.load(exponentials + at, mask=held, other=0.0).to(tl.int16, bitcast=True)
        lower = tl.load(deltas + at, mask=held, other=0.0).to(tl.int16, bitcast=True)
        student = join_bits(upper, lower)
    else:
        student = tl.load(exponentials + at, mask=held, other=0.0)
    s2 = tl.where(inside, student * to_base_2, LOWEST)
    d2 = tl.where(inside, difference * to_base_2, 0.0)
    t2 = s2 + d2
    highest_s, highest_t = tl.max(s2, 1), tl.max(t2, 1)
    e_s, e_t = tl.exp2(s2 - highest_s[:, None]), tl.exp2(t2 - highest_t[:, None])
    total_s, total_t = tl.sum(e_s, 1), tl.sum(e_t, 1)
    cross = tl.sum((e_s if KEEPS_STUDENT else e_t) * d2, 1)
    centre = highest_t - highest_s + _centre(total_s, total_t, cross, highest_t - highest_s, KEEPS_STUDENT)
    tl.store(statistics + part_at, highest_s, mask=row_inside)
    tl.store(statistics + statistic_stride + part_at, total_s, mask=row_inside)
    tl.store(statistics + 2 * statistic_stride + part_at, highest_t, mask=row_inside)
    tl.store(statistics + 3 * statistic_stride + part_at, total_t, mask=row_inside)
    tl.store(statistics + 4 * statistic_stride + part_at, cross, mask=row_inside)
    e = tl.where(e_s < (SMALLEST_E if KEEPS_STUDENT else e_t), -e_t, e_s)
    d = d2 - centre[:, None]
    if PACKED:
        tl.store(exponentials + at, to_bfloat16(e, INTERPRETED), mask=held)
        tl.store(deltas + at, at_most(at_least(d, -LARGEST_D), LARGEST_D).to(tl.float16), mask=held)
    else:
        tl.store(exponentials + at, e, mask=held)
        tl.store(deltas + at, d, mask=held)


@triton.jit(do_not_specialize=["num_rows", "vocabulary", "num_parts"])
def products_kernel(
    student_hidden, student_weight, teacher_hidden, teacher_weight, row_weight, exponentials, deltas, statistics,
    num_rows, vocabulary, student_width, teacher_width, ld_student_hidden, ld_student_weight, ld_teacher_hidden,
    ld_teacher_weight, ld_scratch, num_parts, inverse_temperature,
    BM: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr, DESCRIPTORS: tl.constexpr,
    KEEPS_STUDENT: tl.constexpr,
    PACKED: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Scratch E, D (num_rows, ld_scratch) and statistics (5, num_rows, num_parts) in base 2.

    Tiles of one part of the head follow each other, so it is read from memory once a chunk. A tile without a row that
    counts is left out.
    """
    tiles_of_rows = tl.cdiv(num_rows, BM)
    first_row = (tl.program_id(0) % tiles_of_rows) * BM
    first_column = (tl.program_id(0) // tiles_of_rows) * BV
    rows = first_row + tl.arange(0, BM)
    row_inside = rows < num_rows
    weight = tl.load(row_weight + rows, mask=row_inside, other=0.0)
    if tl.max(tl.abs(weight), 0) == 0.0:
        return

    accumulator = tl.zeros((BM, BV), tl.float32)
    accumulator = _multiply(accumulator, student_hidden, student_weight, first_row, first_column, num_rows, vocabulary,
                            student_width, ld_student_hidden, ld_student_weight, BM, BV, BK, DESCRIPTORS, PRECISION)  # fmt: skip
    WIDTH: tl.constexpr = BV // PARTS
    column = first_column + tl.arange(0, WIDTH)
    at = rows[:, None].to(tl.int64) * ld_scratch + column[None, :]
    parts = _quarters(accumulator, BM, BV)
    for i in tl.static_range(PARTS):
        _park(
            parts[i], exponentials, deltas, at + i * WIDTH, _inside(row_inside, column + i * WIDTH, ld_scratch), PACKED
        )

    accumulator = _multiply(-accumulator, teacher_hidden, teacher_weight, first_row, first_column, num_rows, vocabulary,
                            teacher_width, ld_teacher_hidden, ld_teacher_weight, BM, BV, BK, DESCRIPTORS, PRECISION)  # fmt: skip
    tl.debug_barrier()  # what was parked is seen by the whole block
    to_base_2 = inverse_temperature * LOG2_E
    part_at = rows.to(tl.int64) * num_parts + first_column // WIDTH
    stride = tl.cast(num_rows, tl.int64) * num_parts
    parts = _quarters(accumulator, BM, BV)
    for i in tl.static_range(PARTS):
        held = _inside(row_inside, column + i * WIDTH, ld_scratch)
        inside = _inside(row_inside, column + i * WIDTH, vocabulary)
        _finish(parts[i], exponentials, deltas, statistics, at + i * WIDTH, held, inside, part_at + i, stride, row_inside,
                to_base_2, KEEPS_STUDENT, PACKED, INTERPRETED)  # fmt: skip


@triton.jit
def _quarters(x, BM: tl.constexpr, BV: tl.constexpr):
    """The four quarters of a (BM, BV) tile's columns, from left to right."""
    left, right = columns_in_half(x, BM, BV)
    first, second = columns_in_half(left, BM, BV // 2)
    third, fourth = columns_in_half(right, BM, BV // 2)
    return first, second, third, fourth


@triton.jit
def _inside(row_inside, column, num_columns):
    return row_inside[:, None] & (column < num_columns)[None, :]


@triton.jit
def _centre(total_s, total_t, cross, highest_difference, KEEPS_STUDENT: tl.constexpr):
    """The centre of D less the difference of the part's two maxima."""
    if KEEPS_STUDENT:
        return cross / total_s - highest_difference
    else:
        return tl.log2(total_t) - tl.log2(total_s)


@triton.jit(do_not_specialize=["num_rows", "num_parts"])
def combine_kernel(
    statistics, row_weight, means, num_rows, num_parts, KEEPS_STUDENT: tl.constexpr, BLOCK: tl.constexpr
):
    """Per row: the first four matrices of statistics (5, rows, parts) become factors of the parts:

    p_s of E = 1, p_t of E = -1, what D lacks of log2(p_t / p_s), and of log2 of the ratio of the two exponentials.
    means (rows,) = -sum p_s x, the reverse KL, if KEEPS_STUDENT, else sum p_t x, the forward KL: to first order, in float32.
    """
    row = tl.program_id(0).to(tl.int64)
    if tl.load(row_weight + row) == 0.0:
        return
    stride = tl.cast(num_rows, tl.int64) * num_parts
    statistics += row * num_parts
    lanes = tl.arange(0, BLOCK)
    highest_s, total_s, cross = (
        tl.full((), LOWEST, tl.float32),
        tl.full((), 0.0, tl.float32),
        tl.full((), 0.0, tl.float32),
    )
    highest_t, total_t = tl.full((), LOWEST, tl.float32), tl.full((), 0.0, tl.float32)
    for start in range(0, num_parts, BLOCK):
        part, there = start + lanes, start + lanes < num_parts
        part_s = tl.load(statistics + part, mask=there, other=LOWEST)
        part_t = tl.load(statistics + 2 * stride + part, mask=there, other=LOWEST)
        higher_s, higher_t = tl.maximum(highest_s, tl.max(part_s, 0)), tl.maximum(highest_t, tl.max(part_t, 0))
        scale_s, scale_t = tl.exp2(part_s - higher_s), tl.exp2(part_t - higher_t)
        shrink_s, shrink_t = tl.exp2(highest_s - higher_s), tl.exp2(highest_t - higher_t)
        total_s = total_s * shrink_s + tl.sum(scale_s * tl.load(statistics + stride + part, mask=there, other=0.0), 0)
        total_t = total_t * shrink_t + tl.sum(
            scale_t * tl.load(statistics + 3 * stride + part, mask=there, other=0.0), 0
        )
        part_cross = tl.load(statistics + 4 * stride + part, mask=there, other=0.0)
        if KEEPS_STUDENT:
            cross = cross * shrink_s + tl.sum(scale_s * part_cross, 0)
        else:
            cross = cross * shrink_t + tl.sum(scale_t * part_cross, 0)
        highest_s, highest_t = higher_s, higher_t
    of_totals = tl.log2(total_t) - tl.log2(total_s)
    of_logits = highest_t - highest_s + of_totals
    mean = of_logits - cross / total_s if KEEPS_STUDENT else cross / total_t - of_logits
    tl.store(means + row, mean * LN_2)
    for start in range(0, num_parts, BLOCK):
        part, there = start + lanes, start + lanes < num_parts
        part_s = tl.load(statistics + part, mask=there, other=LOWEST)
        part_t = tl.load(statistics + 2 * stride + part, mask=there, other=LOWEST)
        sum_s = tl.load(statistics + stride + part, mask=there, other=1.0)
        sum_t = tl.load(statistics + 3 * stride + part, mask=there, other=1.0)
        part_cross = tl.load(statistics + 4 * stride + part, mask=there, other=0.0)
        ratio = _centre(sum_s, sum_t, part_cross, part_t - part_s, KEEPS_STUDENT)
        tl.store(statistics + part, tl.exp2(part_s - highest_s) / total_s, mask=there)
        tl.store(statistics + stride + part, tl.exp2(part_t - highest_t) / total_t, mask=there)
        shift = (part_t - highest_t) - (part_s - highest_s) + ratio - of_totals
        tl.store(statistics + 2 * stride + part, shift, mask=there)
        tl.store(statistics + 3 * stride + part, ratio, mask=there)


@triton.jit(do_not_specialize=["num_rows", "num_parts"])
def gradient_kernel(
    exponentials, deltas, gradient, statistics, row_weight, means, losses, measured, units, num_rows, ld_scratch, num_parts,
    beta, rest, loss_scale, gradient_scale,
    KIND: tl.constexpr, MEASURES: tl.constexpr, WANTS_GRADIENT: tl.constexpr, HAS_UNIT: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
):  # fmt: skip
    """One block of one row, elementwise. `means` (2, rows): the row's statistics, of which only jsd has a second.

    MEASURES: its share of the loss into losses (rows, blocks); for jsd, of the two statistics and of the sum of p_s into
    measured (3, rows, blocks). E's rounding keeps that sum from being 1, and a mean has to be divided by it.
    WANTS_GRADIENT: the gradient times gradient_scale, written over E through a pointer of the product's dtype. HAS_UNIT: it
    is divided by the row's unit, which goes into units (rows,).
    """
    row, block, num_blocks = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    part = block * BLOCK_PARTS + tl.arange(0, BLOCK_PARTS)
    column = part[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    held = column < ld_scratch
    at = row * ld_scratch + column
    if tl.load(row_weight + row) == 0.0:
        if MEASURES:
            tl.store(losses + row * num_blocks + block, 0.0)
        if HAS_UNIT:
            tl.store(units + row, 1.0)
        if WANTS_GRADIENT:
            tl.store(gradient + at, tl.zeros((BLOCK_PARTS, WIDTH), gradient.dtype.element_ty), mask=held)
        return

    stride = tl.cast(num_rows, tl.int64) * num_parts
    part_at, there = statistics + row * num_parts + part, part < num_parts
    unit_s = tl.load(part_at, mask=there, other=0.0)[:, None]
    unit_t = tl.load(part_at + stride, mask=there, other=0.0)[:, None]
    shift = tl.load(part_at + 2 * stride, mask=there, other=0.0)[:, None]
    ratio = tl.load(part_at + 3 * stride, mask=there, other=0.0)[:, None]
    e = tl.load(exponentials + at, mask=held, other=0.0).to(tl.float32)
    d = tl.load(deltas + at, mask=held, other=0.0).to(tl.float32)
    x = (d + shift) * LN_2
    to_teacher = d + ratio  # log2 of the ratio of the two exponentials
    other = tl.abs(e) * tl.exp2(tl.where(e < 0.0, -tl.abs(to_teacher), at_most(to_teacher, LARGEST_EXPONENT_2)))
    p_s = unit_s * tl.where(e < 0.0, other, e)
    p_t = unit_t * tl.where(e < 0.0, -e, other)
    mean, far_mean = tl.load(means + row), tl.load(means + num_rows + row)
    terms, q = divergence_terms(p_s, p_t, x, mean, far_mean, beta, rest, KIND)
    if MEASURES:
        row_blocks = tl.cast(num_rows, tl.int64) * num_blocks
        measured += row * num_blocks + block
        tl.store(losses + row * num_blocks + block, tl.sum(tl.sum(terms, 1), 0) * loss_scale)
        if KIND == "jsd":
            near, far = statistics_terms(p_s, x, beta, rest, KIND)
            tl.store(measured, tl.sum(tl.sum(near, 1), 0))
            tl.store(measured + row_blocks, tl.sum(tl.sum(far, 1), 0))
            tl.store(measured + 2 * row_blocks, tl.sum(tl.sum(p_s, 1), 0))
    if WANTS_GRADIENT:
        q *= gradient_scale
        if HAS_UNIT:
            unit = float16_unit(mean, gradient_scale, beta, rest, KIND)
            tl.store(units + row, unit)
            q /= unit
        tl.store(gradient + at, q.to(gradient.dtype.element_ty), mask=held)
