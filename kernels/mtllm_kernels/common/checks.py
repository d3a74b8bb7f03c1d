"""Checks of tensors and settings that several functions take. All raise ValueError naming what does not fit."""

import math

import torch
from torch import Tensor

REDUCTIONS = ("mean", "sum", "none")
FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_matrix(
    name: str,
    tensor: Tensor,
    rows: int | None,
    columns: int | None,
    kinds: tuple[torch.dtype, ...] = FLOATING,
) -> None:
    """Raises ValueError naming the tensor unless it is a (rows, columns) matrix of one of `kinds`."""
    if tensor.dim() != 2:
        hint = " (a partitioned head? use it inside the engine's forward)" if tensor.numel() == 0 else ""
        raise ValueError(f"{name} must have two dimensions, got shape {tuple(tensor.shape)}{hint}")
    if tensor.shape[1] == 0:
        raise ValueError(f"{name} has no columns, got shape {tuple(tensor.shape)}")
    if rows is not None and tensor.shape[0] != rows:
        raise ValueError(f"{name} must have {rows} rows, got shape {tuple(tensor.shape)}")
    if columns is not None and tensor.shape[1] != columns:
        raise ValueError(f"{name} must have {columns} columns, got shape {tuple(tensor.shape)}")
    if tensor.dtype not in kinds:
        raise ValueError(f"{name} must be of dtype {' or '.join(map(str, kinds))}, got {tensor.dtype}")


def check_vector(name: str, tensor: Tensor | None, length: int, kinds: tuple[torch.dtype, ...]) -> None:
    """Raises ValueError naming the tensor unless it is None or a (length,) vector of one of `kinds`."""
    if tensor is None:
        return
    if tensor.shape != (length,):
        raise ValueError(f"{name} must have shape ({length},), got {tuple(tensor.shape)}")
    if tensor.dtype not in kinds:
        raise ValueError(f"{name} must be of dtype {' or '.join(map(str, kinds))}, got {tensor.dtype}")


def check_same(name: str, tensor: Tensor | None, other_name: str, other: Tensor, *, dtype: bool = True) -> None:
    """Raises ValueError naming the tensor unless device (and dtype) agree with another tensor's."""
    if tensor is None:
        return
    if tensor.device != other.device:
        raise ValueError(f"{name} is on {tensor.device}, {other_name} on {other.device}")
    if dtype and tensor.dtype != other.dtype:
        raise ValueError(f"{name} is {tensor.dtype}, {other_name} is {other.dtype}; cast one of them")


def check_head(name: str, head: Tensor, rows: int | None, hidden_name: str, hidden: Tensor) -> None:
    """Raises ValueError naming the head unless it is (rows, D), not empty, of its hidden states' D, dtype and device."""
    check_matrix(name, head, rows, hidden.shape[1])
    if head.shape[0] == 0:
        raise ValueError(f"{name} has no rows: the vocabulary is empty")
    check_same(name, head, hidden_name, hidden)


def check_positive(name: str, value: float) -> None:
    """Raises ValueError naming the setting unless it is positive and finite."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")


def refused_rows(wrong: Tensor, what: str, row_weight: Tensor) -> Tensor:
    """The weights (N,), once the rows that are `wrong` (N,) and count have been refused.

    On the CPU that is a ValueError naming the first of them. Elsewhere an error would cost a synchronisation of the host: there
    the weight becomes NaN, and with it the loss and all gradients that the row has a part in. So it does while compiling.
    """
    wrong = wrong & (row_weight != 0)
    if wrong.device.type == "cpu" and not torch.compiler.is_compiling():
        if wrong.any():
            raise ValueError(f"{what}, in row {int(wrong.nonzero()[0])} of {len(wrong)}")
        return row_weight
    return row_weight.masked_fill(wrong, math.nan)


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises ValueError naming the setting unless its value is allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
