"""Tile shapes of products_kernel side by side on a GPU, to choose the fixed configurations from.

    python -m benchmarks.kernels.tiles [--output FOLDER]

Each runs inside the whole fused plan, so that what is compared is what a training step would feel.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from mtllm_kernels.linear_kl import device
from mtllm_kernels.linear_kl.device import Tile

from benchmarks.kernels.results import save
from benchmarks.kernels.speed import FLOOR, GPU_FLOOR_ROWS, inputs
from benchmarks.kernels.timing import interleaved
from benchmarks.kernels.variants import Inputs, Products, gradient, ours

SIZES = [(8192, 128256, 4096), (8192, 256206, 1024)]
TILES = [
    Tile(128, 128, 64, 8, 3), Tile(128, 128, 64, 8, 4), Tile(64, 128, 64, 4, 3), Tile(64, 128, 64, 4, 4),
    Tile(128, 256, 64, 8, 3), Tile(256, 128, 64, 8, 3), Tile(64, 256, 64, 4, 3),
]  # fmt: skip


def with_tile(tile: Tile, x: Inputs) -> None:
    with mock.patch.object(device, "LOW_PRECISION_TILE", tile):
        gradient(ours("triton-fused"), x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        x = inputs(*size, "cuda", torch.bfloat16)
        functions: dict[str, Callable[[], object]] = {FLOOR: Products(x, GPU_FLOOR_ROWS)}
        functions["split"] = partial(gradient, ours("triton-split"), x)
        functions |= {str(tile): partial(with_tile, tile, x) for tile in TILES}
        times = interleaved(functions, 11, "cuda")
        for name, seconds in times.items():
            ratio = seconds.median / times[FLOOR].median
            rows.append(
                {"tile": name, "size": "x".join(map(str, size)), "seconds": seconds.median, "ratio_to_products": ratio}
            )
            print(f"{rows[-1]['size']:20}{name:80}{1e3 * seconds.median:>10.2f} ms{ratio:>8.3f}", flush=True)
    save("tiles", rows, {f"tiles/{r['tile']}/{r['size']}": r["ratio_to_products"] for r in rows}, arguments.output)


if __name__ == "__main__":
    main()
