"""The Triton backend of `fused_linear_kl`: chunks of rows, a plan for statistics and gradient, cuBLAS for the rest.

Two plans give q, the gradient with respect to the logits, for a chunk: device_split.py (every option) and
device_fused.py (the plain case, less memory traffic). Here: which plan, how many rows, and the products that follow.
No host synchronisation, no atomics: equal inputs give equal bits.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from mtllm_kernels.common.backend import interpreting
from mtllm_kernels.common.chunks import Chunk, Result, Wanted, solve_in_chunks
from mtllm_kernels.common.device import cdiv, chunk_rows, padded, refuse_float64
from mtllm_kernels.common.operator import Solver
from mtllm_kernels.common.products import project
from mtllm_kernels.linear_kl.device_fused import PARTS, combine_kernel, gradient_kernel, products_kernel
from mtllm_kernels.linear_kl.device_split import statistics_and_gradient
from mtllm_kernels.linear_kl.problem import Problem

FUSED_BELOW_WIDTH = 4096  # D_s + D_t; wider, cuBLAS's better products outweigh the traffic. An estimate, not measured


@dataclass(frozen=True)
class Tile:
    """Configuration of products_kernel."""

    rows: int
    columns: int
    inner: int
    num_warps: int
    num_stages: int


LOW_PRECISION_TILE = Tile(128, 128, 64, 8, 3)
FLOAT32_TILE = Tile(32, 64, 16, 4, 2)  # exact products, no tensor cores
INTERPRETED_TILE = Tile(32, 256, 32, 4, 1)
GRADIENT_BLOCK_COLUMNS = 2048
FIRST_ORDER_ABOVE = 1e-3  # a forward or reverse KL


@dataclass(frozen=True)
class Plan:
    """How a chunk's losses and q are formed, and the scratch it needs."""

    chunk: Callable[[Problem, slice, bool], Chunk]
    scratch_bytes: Callable[[torch.dtype], float]  # an element of (rows, V)


def solver(backend: str, problem: Problem) -> Solver[Problem]:
    """The plan's solve function. Raises NotImplementedError naming an option or dtype that it does not honour."""
    refuse_float64(backend, problem)
    refused = [name for name in ("student_bias", "teacher_bias", "softcap") if getattr(problem, name) is not None]
    refused += ["labels"] if problem.has_labels else []
    if backend == "triton-fused" and refused:
        raise NotImplementedError(f"backend 'triton-fused' does not honour {', '.join(refused)}; use 'triton'")
    width = problem.student_hidden.shape[1] + problem.teacher_hidden.shape[1]
    fused = backend == "triton-fused" or (backend != "triton-split" and not refused and width < FUSED_BELOW_WIDTH)
    return functools.partial(solve, plan=FUSED if fused else SPLIT)


def solve(problem: Problem, wanted: Wanted, plan: Plan, rows_per_chunk: int | None = None) -> Result:
    """Losses and gradients of the whole problem, chunk by chunk."""
    p, head = problem, problem.student_weight
    rows_per_chunk = rows_per_chunk or chunk_rows(p.student_hidden, p.vocabulary, plan.scratch_bytes(head.dtype))
    with torch.cuda.device_of(head):
        return solve_in_chunks(p, wanted, rows_per_chunk, lambda rows: plan.chunk(p, rows, wanted.any))


def _split_chunk(p: Problem, rows: slice, wants_q: bool) -> Chunk:
    num_rows, vocabulary, device = rows.stop - rows.start, p.vocabulary, p.student_hidden.device
    student, teacher = (padded(num_rows, vocabulary, torch.float32, device) for _ in range(2))
    project(p.student_hidden[rows], p.student_weight, student)
    project(p.teacher_hidden[rows], p.teacher_head, teacher)
    q = padded(num_rows, vocabulary, p.student_weight.dtype, device) if wants_q else None
    return statistics_and_gradient(p, rows, student, teacher, q)


@dataclass(frozen=True)
class _FusedScratch:
    """What the fused plan's kernels hand to each other for one chunk; see device_fused.py for E, D and statistics."""

    e: Tensor  # (rows, V), row-padded
    d: Tensor  # (rows, V), row-padded
    statistics: Tensor  # (5, rows, parts)
    means: Tensor  # (2, rows)
    row_weight: Tensor  # (rows,)
    tile: Tile

    @property
    def part_width(self) -> int:
        return self.tile.columns // PARTS.value


def _fused_chunk(p: Problem, rows: slice, wants_q: bool) -> Chunk:
    num_rows, vocabulary, device = rows.stop - rows.start, p.vocabulary, p.student_hidden.device
    packed = p.student_hidden.dtype != torch.float32
    tile = LOW_PRECISION_TILE if packed else FLOAT32_TILE
    tile = INTERPRETED_TILE if interpreting() else tile
    num_parts = cdiv(vocabulary, tile.columns) * PARTS.value
    e = padded(num_rows, vocabulary, torch.bfloat16 if packed else torch.float32, device)
    d = padded(num_rows, vocabulary, torch.float16 if packed else torch.float32, device)
    statistics = torch.empty(5, num_rows, num_parts, dtype=torch.float32, device=device)
    means = torch.zeros(2, num_rows, dtype=torch.float32, device=device)
    scratch = _FusedScratch(e, d, statistics, means, p.row_weight[rows], tile)
    _multiply(p, rows, scratch, packed)
    q = e.view(p.student_weight.dtype)
    return _losses_and_gradient(p, scratch, q, wants_q)


def _multiply(p: Problem, rows: slice, scratch: _FusedScratch, packed: bool) -> None:
    """Both products into E, D and the parts' factors."""
    tile, keeps_student = scratch.tile, p.divergence == "reverse_kl"
    (num_rows, vocabulary), num_parts = scratch.e.shape, scratch.statistics.shape[2]
    operands = (p.student_hidden[rows], p.student_weight, p.teacher_hidden[rows], p.teacher_head)
    matrices = [_row_major(x) for x in operands]
    blocks = [(tile.rows, tile.inner), (tile.columns, tile.inner)] * 2
    described = _has_tensor_copies(scratch.e.device) and all(_describable(x) for x in matrices)
    arguments = [_descriptor(x, b) if described else x for x, b in zip(matrices, blocks, strict=True)]
    grid = (cdiv(num_rows, tile.rows) * cdiv(vocabulary, tile.columns),)
    products_kernel[grid](
        *arguments, scratch.row_weight, scratch.e, scratch.d, scratch.statistics, num_rows, vocabulary,
        matrices[0].shape[1], matrices[2].shape[1], *(x.stride(0) for x in matrices), scratch.e.stride(0), num_parts,
        1 / p.temperature,
        BM=tile.rows, BV=tile.columns, BK=tile.inner, DESCRIPTORS=described, KEEPS_STUDENT=keeps_student,
        PACKED=packed, PRECISION="tf32" if packed else "ieee", INTERPRETED=interpreting(),
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    combine_kernel[(num_rows,)](
        scratch.statistics, scratch.row_weight, scratch.means, num_rows, num_parts,
        KEEPS_STUDENT=keeps_student, BLOCK=1024, num_warps=4,
    )  # fmt: skip


def _losses_and_gradient(p: Problem, scratch: _FusedScratch, q: Tensor, wants_q: bool) -> Chunk:
    """Losses; the gradient, if wanted, goes into q, which lies over E."""
    num_rows, vocabulary = q.shape
    num_blocks = cdiv(vocabulary, GRADIENT_BLOCK_COLUMNS)
    losses = torch.empty(num_rows, num_blocks, dtype=torch.float32, device=q.device)
    measured = torch.empty(3, num_rows, num_blocks, dtype=torch.float32, device=q.device)
    has_unit = wants_q and q.dtype == torch.float16
    units = torch.empty(num_rows, dtype=torch.float32, device=q.device)
    row_weight, means = scratch.row_weight, scratch.means

    def run(measures: bool, forms: bool) -> None:
        gradient_kernel[(num_rows, num_blocks)](
            scratch.e, scratch.d, q, scratch.statistics, row_weight, means, losses, measured, units, num_rows,
            scratch.e.stride(0), scratch.statistics.shape[2], p.beta, 1 - p.beta, p.divergence_scale,
            p.divergence_scale / p.temperature,
            KIND=p.divergence, MEASURES=measures, WANTS_GRADIENT=forms, HAS_UNIT=has_unit and forms,
            WIDTH=scratch.part_width, BLOCK_PARTS=GRADIENT_BLOCK_COLUMNS // scratch.part_width, num_warps=4,
        )  # fmt: skip

    run(measures=True, forms=wants_q and p.divergence != "jsd")
    if p.divergence == "jsd" and wants_q:
        near, far, total = measured.sum(2)
        torch.div(torch.stack((near, far)), total, out=means)
        run(measures=False, forms=True)
    loss = losses.sum(1)
    if p.divergence != "jsd":  # where it is large, its first order from float32 alone is the better one
        loss = torch.where((means[0] > FIRST_ORDER_ABOVE) & (row_weight != 0), means[0] * p.divergence_scale, loss)
    return Chunk(loss, q if wants_q else None, units if has_unit else 1.0)


def _row_major(matrix: Tensor) -> Tensor:
    return matrix if matrix.stride(1) == 1 and matrix.stride(0) >= matrix.shape[1] else matrix.contiguous()


def _has_tensor_copies(device: torch.device) -> bool:
    """Hopper and later; elsewhere descriptors cost registers and bring nothing. The interpreter knows them too."""
    return device.type == "cpu" or torch.cuda.get_device_capability(device) >= (9, 0)


def _describable(matrix: Tensor) -> bool:
    """Whether the hardware's tensor copies can address it: rows aligned to 16 bytes."""
    aligned = matrix.data_ptr() % 16 == 0 and matrix.stride(0) * matrix.element_size() % 16 == 0
    return aligned and matrix.stride(1) == 1


def _descriptor(matrix: Tensor, block: tuple[int, int]) -> TensorDescriptor:
    return TensorDescriptor(matrix, list(matrix.shape), list(matrix.stride()), list(block))


SPLIT = Plan(_split_chunk, scratch_bytes=lambda dtype: 8 + dtype.itemsize)
FUSED = Plan(_fused_chunk, scratch_bytes=lambda dtype: 2 * max(dtype.itemsize, 2) + 5 * 4 / 32)
