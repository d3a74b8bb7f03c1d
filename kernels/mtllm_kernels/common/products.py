"""Products with a head, accumulated and kept in float32 (float64 for float64)."""

import torch
from torch import Tensor

CPU_TILE = 4096  # vocabulary rows of a low-precision head upcast at a time


def accumulator_of(tensor: Tensor) -> torch.dtype:
    """dtype of logits and statistics."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


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


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """left right, both of one dtype."""
    accumulator = accumulator_of(left)
    if left.dtype == accumulator:
        return torch.mm(left, right)
    if left.device.type == "cuda":
        return torch.mm(left, right, out_dtype=accumulator)
    return torch.mm(left.to(accumulator), right.to(accumulator))
