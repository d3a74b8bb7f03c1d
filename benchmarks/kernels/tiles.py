"""Tile shapes of products_kernel side by side on a GPU, to choose the fixed configurations from.

    python -m benchmarks.kernels.tiles [--output FOLDER]

Each runs inside the whole fused plan, so that what is compared is what a training step would feel.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

from mtllm_kernels.common.backend import interpreting
from mtllm_kernels.linear_kl import device
from mtllm_kernels.linear_kl.device import Tile

from benchmarks.kernels import rehearsal
from benchmarks.kernels.rehearsal import low_precision, rehearsing
from benchmarks.kernels.results import Results
from benchmarks.kernels.speed import FLOOR, GPU_FLOOR_ROWS, inputs
from benchmarks.kernels.timing import interleaved
from benchmarks.kernels.variants import Inputs, Products, gradient, left_out, ours

SIZES = [(8192, 128256, 4096), (8192, 256206, 1024)]
TOY_SIZE = (4, 300, 32)
TILE_NAME = "INTERPRETED_TILE" if interpreting() else "LOW_PRECISION_TILE"
TILES = [
    Tile(128, 128, 64, 8, 3), Tile(128, 128, 64, 8, 4), Tile(64, 128, 64, 4, 3), Tile(64, 128, 64, 4, 4),
    Tile(128, 256, 64, 8, 3), Tile(256, 128, 64, 8, 3), Tile(64, 256, 64, 4, 3),
]  # fmt: skip


def with_tile(tile: Tile, x: Inputs) -> None:
    with mock.patch.object(device, TILE_NAME, tile):
        gradient(ours("triton-fused"), x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    results, where = Results("tiles", arguments.output), rehearsal.device()
    for size in [TOY_SIZE] if rehearsing() else SIZES:
        x = inputs(*size, where, low_precision())
        floor = Products(x, GPU_FLOOR_ROWS)
        functions: dict[str, Callable[[], object]] = {"split": partial(gradient, ours("triton-split"), x)}
        functions |= {str(tile): partial(with_tile, tile, x) for tile in TILES}
        for name, function in functions.items():
            try:
                times = interleaved({FLOOR: floor, name: function}, 7, where)
            except Exception as error:  # a tile that does not fit the chip leaves the others their turn
                left_out(name, size, error)
                continue
            ratio, where_text = times[name].median / times[FLOOR].median, "x".join(map(str, size))
            row = {"tile": name, "size": where_text, "seconds": times[name].median, "ratio_to_products": ratio}
            results.add(row, {f"tiles/{name}/{where_text}": ratio})
            print(f"{where_text:20}{name:80}{1e3 * times[name].median:>10.2f} ms{ratio:>8.3f}", flush=True)


if __name__ == "__main__":
    main()
