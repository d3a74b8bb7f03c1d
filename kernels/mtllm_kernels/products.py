"""Products with a head, accumulated and kept in float32 (float64 for float64), and the gradients made of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

CPU_TILE = 4096  # vocabulary rows of a low-precision head upcast at a time
HEAD_SLAB = 16384  # rows of the head's gradient added to at a time
FLOAT16_SCALE = 4096.0  # keeps q, of at most a few units, clear of float16's subnormals


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
    """Unweighted losses of the rows (zero where the weight is zero) and the weighted gradients that were wanted."""

    loss_rows: Tensor  # (N,)
    grad_hidden: Tensor | None  # (N, D), the hidden states' dtype
    grad_weight: Tensor | None  # (V, D), the weight's dtype
    grad_bias: Tensor | None  # (V,)


def accumulator_of(tensor: Tensor) -> torch.dtype:
    """dtype of logits and statistics."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def balanced_rows(num_rows: int, most: int) -> int:
    """Rows of a chunk when num_rows are cut into as few like chunks as `most` rows allow."""
    num_chunks = max(-(-num_rows // most), 1)
    return max(-(-num_rows // num_chunks), 1)


def project(hidden: Tensor, weight: Tensor, out: Tensor) -> None:
    """out (rows, V) = hidden weight^T; `out` has the accumulator's dtype."""
    if hidden.dtype == out.dtype:
        torch.mm(hidden, weight.T, out=out)
    elif hidden.device.type == "cuda":
        torch.mm(hidden, weight.T, out_dtype=out.dtype, out=out)
    else:
        hidden = hidden.to(out.dtype)
        for tile in range(0, weight.shape[0], CPU_TILE):
            head = weight[tile : tile + CPU_TILE].to(out.dtype)
            torch.mm(hidden, head.T, out=out[:, tile : tile + CPU_TILE])


def times_head(q: Tensor, weight: Tensor) -> Tensor:
    """q weight, (rows, D). On a GPU both are of one dtype."""
    accumulator = accumulator_of(q)
    if q.dtype == weight.dtype == accumulator:
        return torch.mm(q, weight)
    if q.device.type == "cuda":
        return torch.mm(q, weight, out_dtype=accumulator)
    product = q.new_zeros(q.shape[0], weight.shape[1], dtype=accumulator)
    for tile in range(0, weight.shape[0], CPU_TILE):
        head = weight[tile : tile + CPU_TILE].to(accumulator)
        product.addmm_(q[:, tile : tile + CPU_TILE].to(accumulator), head)
    return product


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    accumulator = accumulator_of(left)
    if left.dtype == accumulator:
        return torch.mm(left, right)
    if left.device.type == "cuda":
        return torch.mm(left, right, out_dtype=accumulator)
    return torch.mm(left.to(accumulator), right.to(accumulator))


def q_scale(weight: Tensor) -> float:
    """What q has to be multiplied by where it is kept in the weight's dtype."""
    return FLOAT16_SCALE if weight.dtype == torch.float16 else 1.0


class GradientSum:
    """Gradients of hidden states, head and bias, gathered from q, the gradient of a chunk's unweighted losses with
    respect to h W^T + b. Row weights come in after the products, so that they cannot push q below what its dtype holds.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, row_weight: Tensor, wanted: Wanted) -> None:
        self._hidden, self._weight, self._bias, self._row_weight = hidden, weight, bias, row_weight
        self._accumulator = accumulator_of(hidden)
        self._grad_hidden = hidden.new_empty(hidden.shape) if wanted.hidden else None
        zeros = weight.new_zeros
        self._grad_weight = zeros(weight.shape, dtype=self._accumulator) if wanted.weight else None
        self._grad_bias = zeros(weight.shape[0], dtype=self._accumulator) if wanted.bias else None
        self._largest = row_weight.abs().amax().clamp(min=1e-30) if len(row_weight) else row_weight.new_ones(())

    def add(self, rows: slice, q: Tensor, scale: float) -> None:
        """One chunk: q (rows, V), multiplied by `scale` already. Rows of weight 0 may hold anything in q if the
        hidden states' gradient alone is wanted, else they must hold 0."""
        weight = self._row_weight[rows, None].to(self._accumulator)
        gone = weight == 0
        if self._grad_hidden is not None:
            product = times_head(q, self._weight).mul_(weight / scale)
            self._grad_hidden[rows] = product.masked_fill_(gone, 0.0)
        share = weight / self._largest
        if self._grad_weight is not None:
            hidden = (self._hidden[rows] * share).masked_fill(gone, 0.0).to(q.dtype)
            for start in range(0, q.shape[1], HEAD_SLAB):
                slab = slice(start, start + HEAD_SLAB)
                self._grad_weight[slab].add_(_multiply(q[:, slab].T, hidden), alpha=1 / scale)
        if self._grad_bias is not None:
            self._grad_bias.add_(_multiply(share.T.to(q.dtype), q).squeeze(0), alpha=1 / scale)

    def result(self, loss_rows: Tensor) -> Result:
        """The sums in their parameters' dtypes."""
        grad_weight, grad_bias = self._grad_weight, self._grad_bias
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(self._largest).to(self._weight.dtype)
        if grad_bias is not None and self._bias is not None:
            grad_bias = grad_bias.mul_(self._largest).to(self._bias.dtype)
        return Result(loss_rows, self._grad_hidden, grad_weight, grad_bias)
