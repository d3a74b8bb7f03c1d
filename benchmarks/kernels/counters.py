"""What the GPU's own counters say of the fused plan's products and of cuBLAS's, by Nsight Compute.

    python -m benchmarks.kernels.counters [--output FOLDER]

Writes counters.csv as `ncu` prints it. Without `ncu` the kernels run once and nothing is counted.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.kernels import rehearsal
from benchmarks.kernels.rehearsal import low_precision, rehearsing
from benchmarks.kernels.results import folder
from benchmarks.kernels.speed import inputs
from benchmarks.kernels.variants import Products, gradient, ours
from mtllm_ds import atomic

SIZES, TOY_SIZES = [(1024, 128256, 4096), (1024, 256206, 1024)], [(4, 300, 32)]
SECTIONS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "Occupancy", "WarpStateStats", "LaunchStats")
LIMIT_SECONDS = 240


def run_once() -> None:
    """Every product of both plans, once: what is counted."""
    device = rehearsal.device()
    for size in TOY_SIZES if rehearsing() else SIZES:
        x = inputs(*size, device, low_precision())
        Products(x)()
        gradient(ours("triton-fused"), x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--once", action="store_true", help="run the kernels, count nothing")
    arguments = parser.parse_args()
    counter = shutil.which("ncu")
    if arguments.once or counter is None:
        run_once()
        print("" if arguments.once else "no ncu: the kernels ran, nothing was counted")
        return
    command = [
        counter,
        "--csv",
        "--clock-control",
        "none",
        "--kernel-name",
        "regex:products_kernel|gradient_kernel|gemm|nvjet",
    ]
    command += [part for section in SECTIONS for part in ("--section", section)]
    command += [sys.executable, "-W", "ignore", "-m", "benchmarks.kernels.counters", "--once"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    path = folder(arguments.output) / "counters.csv"
    atomic.write_text(path, done.stdout)
    print(f"{path}: {len(done.stdout.splitlines())} lines; {done.stderr[-500:]}")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
