"""Checks of tensors and settings that several functions take. All raise ValueError naming what does not fit."""

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


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises ValueError naming the setting unless its value is allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
