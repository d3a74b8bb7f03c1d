"""Chunks and scratch of the Triton paths. Needs no Triton itself."""

import torch
from torch import Tensor

from mtllm_kernels.common.problem import HeadProblem

SCRATCH_BYTES = 7 * 2**29  # 3.5 GiB
TILE_ROWS = 128
LEAST_ROWS = 1024  # of a chunk: fewer leave multiprocessors idle
COLUMN_ALIGNMENT = 64  # of scratch rows, in elements: cuBLAS drops to slower kernels for unaligned ones


def refuse_float64(backend: str, problem: HeadProblem) -> None:
    """Raises NotImplementedError for float64 inputs."""
    if problem.accumulator == torch.float64:
        raise NotImplementedError(
            f"backend {backend!r} has no float64; student_hidden is {problem.student_hidden.dtype}"
        )


def chunk_rows(hidden: Tensor, vocabulary: int, element_bytes: float) -> int:
    """Rows of a chunk: whole tiles, within the scratch, in the fewest waves of the dH product over the multiprocessors."""
    num_rows, width = hidden.shape
    processors = num_multiprocessors(hidden.device)

    def waves(rows: int) -> int:
        tiles = cdiv(rows, TILE_ROWS) * cdiv(width, 256)
        return cdiv(num_rows, rows) * cdiv(tiles, processors)

    return min(candidates(num_rows, vocabulary, element_bytes), key=lambda rows: (waves(rows), rows))


def candidates(num_rows: int, vocabulary: int, element_bytes: float) -> list[int]:
    """For each number of chunks the fewest rows, in whole tiles, that a chunk needs: more rows would only add waves.

    One candidate for every 1024 rows at most, however much the scratch would hold.
    """
    most = max(int(SCRATCH_BYTES / (element_bytes * vocabulary)) // TILE_ROWS * TILE_ROWS, TILE_ROWS)
    least = min(LEAST_ROWS, most, max(cdiv(num_rows, TILE_ROWS), 1) * TILE_ROWS)
    fewest, highest = max(cdiv(num_rows, most), 1), max(cdiv(num_rows, least), 1)
    rows = (cdiv(cdiv(num_rows, chunks), TILE_ROWS) * TILE_ROWS for chunks in range(fewest, highest + 1))
    return [max(each, least) for each in rows]


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def num_multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def padded(num_rows: int, vocabulary: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Scratch (num_rows, V), its rows padded to an aligned length."""
    length = cdiv(vocabulary, COLUMN_ALIGNMENT) * COLUMN_ALIGNMENT
    return torch.empty(num_rows, length, dtype=dtype, device=device)[:, :vocabulary]
