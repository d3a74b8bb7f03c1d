"""Rows chunk by chunk: each chunk gives its losses and q, their gradient with respect to the logits, and is forgotten."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mtllm_kernels.common.constants import FLOAT16_LARGEST
from mtllm_kernels.common.problem import HeadProblem
from mtllm_kernels.common.products import multiply, times_head

HEAD_SLAB = 16384  # rows of the head's gradient added to at a time


@dataclass(frozen=True)
class Wanted:
    """Which gradients a call has to form."""

    hidden: bool
    weight: bool
    bias: bool

    @property
    def any(self) -> bool:
        return self.hidden or self.weight or self.bias


@dataclass(frozen=True)
class Result:
    """Unweighted losses of the rows (zero where the weight is zero) and the weighted gradients that were wanted, each in
    `kept_dtype` of what it is the gradient of."""

    loss_rows: Tensor  # (N,)
    grad_hidden: Tensor | None  # (N, D)
    grad_weight: Tensor | None  # (V, D)
    grad_bias: Tensor | None  # (V,)


@dataclass(frozen=True)
class Chunk:
    """Losses of a chunk's rows; q times `unit` is their gradient with respect to h W^T + b."""

    loss: Tensor  # (rows,)
    q: Tensor | None  # (rows, V); None if no gradient is wanted
    unit: Tensor | float = 1.0  # a tensor is (rows,), in the accumulator's dtype


def solve_in_chunks(
    problem: HeadProblem, wanted: Wanted, rows_per_chunk: int, chunk: Callable[[slice], Chunk]
) -> Result:
    """Losses and gradients of the whole problem."""
    num_rows = problem.num_rows
    loss_rows = problem.row_weight.new_empty(num_rows, dtype=problem.accumulator)
    gradients = GradientSum(problem, wanted)
    for start in range(0, num_rows, rows_per_chunk):
        rows = slice(start, min(start + rows_per_chunk, num_rows))
        done = chunk(rows)
        loss_rows[rows] = torch.where(problem.row_weight[rows] != 0, done.loss, 0.0)
        gradients.add(rows, done)
        del done  # before the next chunk's scratch is made
    return gradients.result(loss_rows)


def balanced_rows(num_rows: int, most: int) -> int:
    """Rows of a chunk when num_rows are cut into as few like chunks as `most` rows allow."""
    num_chunks = max(-(-num_rows // most), 1)
    return max(-(-num_rows // num_chunks), 1)


def kept_dtype(tensor: Tensor) -> torch.dtype:
    """In what a tensor's gradient waits for the backward pass. float16 cannot hold it before the loss scale is known."""
    return torch.float32 if tensor.dtype == torch.float16 else tensor.dtype


def chunk_of(problem: HeadProblem, rows: slice, wanted: Wanted, loss: Tensor, q: Tensor) -> Chunk:
    """A chunk from q in the accumulator's dtype; its place may be taken."""
    if not wanted.any:
        return Chunk(loss, None)
    if wanted.weight or wanted.bias:
        q = q.masked_fill_((problem.row_weight[rows] == 0)[:, None], 0.0)
    head = problem.student_weight
    if q.device.type == "cuda" and q.dtype != head.dtype:  # products there want one dtype
        unit = unit_of(q) if head.dtype == torch.float16 else 1.0
        return Chunk(loss, q.div_(unit[:, None] if isinstance(unit, Tensor) else unit).to(head.dtype), unit)
    return Chunk(loss, q)


def unit_of(q: Tensor) -> Tensor:
    """(rows,) what q (rows, V) has to be divided by to make good use of float16's range."""
    return (q.abs().amax(-1) / FLOAT16_LARGEST).clamp(min=1e-30)


class GradientSum:
    """Gradients of hidden states, head and bias, gathered from the chunks' q. Row weights come in after the products, so
    that they cannot push q below what its dtype holds.
    """

    def __init__(self, problem: HeadProblem, wanted: Wanted) -> None:
        self._problem = p = problem
        hidden, zeros = p.student_hidden, p.student_weight.new_zeros
        self._grad_hidden = hidden.new_empty(hidden.shape, dtype=kept_dtype(hidden)) if wanted.hidden else None
        self._grad_weight = zeros(p.student_weight.shape, dtype=p.accumulator) if wanted.weight else None
        self._grad_bias = zeros(p.vocabulary, dtype=p.accumulator) if wanted.bias else None

    def add(self, rows: slice, chunk: Chunk) -> None:
        """Rows of weight 0 may hold anything in q if the hidden states' gradient alone is wanted, else they must hold 0."""
        q, p = chunk.q, self._problem
        if q is None:
            return
        row_weight = p.row_weight[rows].to(p.accumulator)
        gone, weight = (row_weight == 0)[:, None], (row_weight * chunk.unit)[:, None]
        if self._grad_hidden is not None:
            product = times_head(q, p.student_weight).mul_(weight)
            self._grad_hidden[rows] = product.masked_fill_(gone, 0.0)
        if self._grad_weight is None and self._grad_bias is None:
            return
        largest = weight.abs().amax().clamp(min=1e-30)  # comes in after the products too
        share = (weight / largest).masked_fill_(gone, 0.0)
        if self._grad_weight is not None:
            hidden = (p.student_hidden[rows] * share).masked_fill(gone, 0.0).to(q.dtype)
            for start in range(0, q.shape[1], HEAD_SLAB):
                slab = slice(start, start + HEAD_SLAB)
                self._grad_weight[slab].addcmul_(multiply(q[:, slab].T, hidden), largest)
        if self._grad_bias is not None:
            self._grad_bias.addcmul_(multiply(share.T.to(q.dtype), q).squeeze(0), largest)

    def result(self, loss_rows: Tensor) -> Result:
        """The sums in the dtypes they are kept in."""
        grad_weight, grad_bias, bias = self._grad_weight, self._grad_bias, self._problem.trained_bias
        if grad_weight is not None:
            grad_weight = grad_weight.to(kept_dtype(self._problem.student_weight))
        if grad_bias is not None and bias is not None:
            grad_bias = grad_bias.to(kept_dtype(bias))
        return Result(loss_rows, self._grad_hidden, grad_weight, grad_bias)
