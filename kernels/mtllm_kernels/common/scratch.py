"""Scratch of the PyTorch path, and how many rows it allows."""

import threading

import torch
from torch import Tensor

from mtllm_kernels.common.chunks import balanced_rows
from mtllm_kernels.common.problem import HeadProblem

CPU_SCRATCH_BYTES = 2**28
GPU_SCRATCH_BYTES = 3 * 2**30


class _KeptScratch(threading.local):
    """A thread's CPU scratch, kept between calls: touching fresh pages costs as much time as the softmaxes."""

    storage: Tensor | None = None


_kept = _KeptScratch()


def release_scratch() -> None:
    """Frees what this thread keeps between calls on the CPU (at most CPU_SCRATCH_BYTES and one block)."""
    _kept.storage = None


def scratch_for(like: Tensor, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """(rows, columns) of unspecified values on the device of `like`."""
    if like.device.type != "cpu":
        return like.new_empty(rows, columns, dtype=dtype)
    num_bytes = rows * columns * dtype.itemsize
    if _kept.storage is None or _kept.storage.numel() < num_bytes:
        with torch.inference_mode(False):  # else it could not be written to outside of it
            _kept.storage = torch.empty(num_bytes, dtype=torch.uint8)
    return _kept.storage[:num_bytes].view(dtype).view(rows, columns)


def chunk_rows(problem: HeadProblem, num_matrices: int) -> int:
    """Rows of a chunk that needs so many matrices (rows, V): as many as the scratch allows, but 32 on a CPU and 1024 on a
    GPU at least, in chunks of like size."""
    on_cpu = problem.student_hidden.device.type == "cpu"
    budget, least = (CPU_SCRATCH_BYTES, 32) if on_cpu else (GPU_SCRATCH_BYTES, 1024)
    row_bytes = num_matrices * problem.accumulator.itemsize * problem.vocabulary
    return balanced_rows(problem.num_rows, max(budget // row_bytes, least))
