"""Chunks and scratch of the Triton paths. Needs no Triton itself."""

import torch
from torch import Tensor

from mtllm_kernels.common.problem import HeadProblem

SCRATCH_BYTES = 7 * 2**29  # 3.5 GiB
COLUMN_ALIGNMENT = 64  # of scratch rows, in elements: cuBLAS drops to slower kernels for unaligned ones


def refuse_float64(backend: str, problem: HeadProblem) -> None:
    """Raises NotImplementedError for float64 inputs."""
    if problem.accumulator == torch.float64:
        raise NotImplementedError(
            f"backend {backend!r} has no float64; student_hidden is {problem.student_hidden.dtype}"
        )


def chunk_rows(hidden: Tensor, vocabulary: int, element_bytes: float) -> int:
    """Rows a chunk: whole tiles, within the scratch, in the fewest waves of the dH product over the multiprocessors."""
    num_rows, width = hidden.shape
    most = max(int(SCRATCH_BYTES / (element_bytes * vocabulary)) // 128 * 128, 128)
    processors = _num_multiprocessors(hidden.device)

    def waves(rows: int) -> int:
        tiles = cdiv(rows, 128) * cdiv(width, 256)
        return cdiv(num_rows, rows) * cdiv(tiles, processors)

    return min(range(min(1024, most), most + 1, 128), key=lambda rows: (waves(rows), rows))


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def _num_multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def padded(num_rows: int, vocabulary: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Scratch (num_rows, V), its rows padded to an aligned length."""
    length = cdiv(vocabulary, COLUMN_ALIGNMENT) * COLUMN_ALIGNMENT
    return torch.empty(num_rows, length, dtype=dtype, device=device)[:, :vocabulary]
