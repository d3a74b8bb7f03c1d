"""Time and memory of loss plus dH for a shared frozen head, beside the three products alone.

python -m benchmarks.kernels.speed [--device cpu|cuda] [--output FOLDER] [--seconds LIMIT]

Ours and the products are measured first, over all sizes, interleaved; then each peer in a process of its own, interleaved
with the products there, so that neither its memory nor its death touches another. Every row is saved as it comes.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.kernels import rehearsal
from benchmarks.kernels.rehearsal import low_precision, rehearsing
from benchmarks.kernels.results import Results
from benchmarks.kernels.timing import Seconds, interleaved, memory
from benchmarks.kernels.variants import OURS, Inputs, Products, gradient, left_out, our_variants, peer_makers

FLOOR = "three products"
Size = tuple[int, int, int]  # N, V, D
CPU_SIZES: list[tuple[Size, torch.dtype]] = [((1024, 32000, 512), torch.float32), ((512, 32000, 512), torch.bfloat16)]
GPU_SIZES: list[tuple[Size, torch.dtype]] = [
    ((8192, 128256, 4096), torch.bfloat16),
    ((8192, 256206, 1024), torch.bfloat16),
    ((8192, 128256, 1024), torch.bfloat16),
    ((2048, 32000, 2048), torch.bfloat16),
]
TOY_SIZES: list[tuple[Size, torch.dtype]] = [((4, 300, 32), low_precision()), ((3, 203, 24), torch.float32)]
GPU_FLOOR_ROWS = 4096
EAGER_BYTES_PER_LOGIT, LARGEST_EAGER_BYTES = 50, 120e9


def inputs(num_rows: int, vocabulary: int, width: int, device: str, dtype: torch.dtype) -> Inputs:
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    weight = (normal(vocabulary, width) * 2 * width**-0.5).to(dtype)
    student, noise = normal(num_rows, width), normal(num_rows, width)
    return Inputs(student.to(dtype), (student + 0.2 * noise).to(dtype), weight)


def sizes(device: str) -> list[tuple[Size, torch.dtype]]:
    if rehearsing():
        return TOY_SIZES
    return GPU_SIZES if device == "cuda" else CPU_SIZES


def measure(names: list[str], size: Size, dtype: torch.dtype, device: str, rounds: int, results: Results) -> None:
    """The products and some variants, interleaved. One row each: quantiles, ratio to the products, memory."""
    x = inputs(*size, device, dtype)
    functions: dict[str, Callable[[], object]] = {FLOOR: Products(x, GPU_FLOOR_ROWS if device == "cuda" else None)}
    makers = peer_makers(device) | {name: partial(lambda v: v, v) for name, v in our_variants(device).items()}
    used = {FLOOR: memory(functions[FLOOR], device)}
    for name in names:
        try:
            if name.endswith("eager") and device == "cuda" and _eager_bytes(size) > LARGEST_EAGER_BYTES:
                raise MemoryError("it would not fit")
            functions[name] = partial(gradient, makers[name](), x)
            functions[name]()  # compiles
            used[name] = memory(functions[name], device)
        except Exception as error:  # a peer may raise anything, and so may ours: the others are measured
            left_out(name, size, error)
            functions.pop(name, None)
        if device == "cuda":
            torch.cuda.empty_cache()
    times = interleaved(functions, rounds, device)
    kept = times if names[0].startswith(OURS) else [name for name in times if name != FLOOR]
    for name in kept:
        row = _row(name, size, dtype, device, rounds, times) | used[name]
        results.add(row, _summary(row))


def _eager_bytes(size: Size) -> float:
    return EAGER_BYTES_PER_LOGIT * size[0] * size[1]


def _row(name: str, size: Size, dtype: torch.dtype, device: str, rounds: int, times: dict[str, Seconds]) -> dict:
    num_rows, vocabulary, width = size
    t, floor, work = times[name], times[FLOOR], 3 * 2.0 * num_rows * vocabulary * width
    row = {"variant": name, "dtype": str(dtype).removeprefix("torch."), "N": num_rows, "V": vocabulary, "D": width}
    row |= {"seconds": t.median, "seconds_20": t.low, "seconds_80": t.high, "rounds": rounds}
    row |= {"ratio_to_products": t.median / floor.median, "tflops_of_three_products": work / t.median / 1e12}
    if device == "cpu":
        row |= {"processor_seconds": t.processor, "processor_ratio": t.processor / floor.processor}
    return row


def table(rows: list[dict]) -> str:
    lines = [
        f"{'N, V, D, dtype, variant':58}{'ms':>10}{'20%':>10}{'80%':>10}{'x products':>12}{'x CPU s':>9}{'peak MB':>10}"
    ]
    for r in rows:
        name = f"{r['N']}, {r['V']}, {r['D']}, {r['dtype']}, {r['variant']}"
        milliseconds = "".join(f"{1e3 * float(r[key]):>10.2f}" for key in ("seconds", "seconds_20", "seconds_80"))
        ratios = f"{float(r['ratio_to_products']):>12.3f}{float(r.get('processor_ratio') or 0):>9.3f}"
        lines.append(f"{name:58}{milliseconds}{ratios}{float(r['peak_bytes']) / 1e6:>10.0f}")
    return "\n".join(lines)


def _summary(row: dict) -> dict[str, float]:
    """Flat figures, name to number."""
    figures = (
        "seconds",
        "ratio_to_products",
        "processor_ratio",
        "tflops_of_three_products",
        "peak_bytes",
        "allocated_bytes",
    )
    where = f"{row['variant']}/{row['dtype']}/{row['N']}x{row['V']}x{row['D']}"
    return {f"{key}/{where}": row[key] for key in figures if key in row}


def plot(rows: list[dict], path: Path) -> None:
    """Time in units of the three products, one panel a size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = list(dict.fromkeys((r["N"], r["V"], r["D"], r["dtype"]) for r in rows))
    figure, axes = pyplot.subplots(1, len(sizes), figsize=(5.5 * len(sizes), 3.6), squeeze=False)
    for axis, size in zip(axes[0], sizes, strict=True):
        here = [r for r in rows if (r["N"], r["V"], r["D"], r["dtype"]) == size][::-1]
        colors = ["tab:green" if r["variant"].startswith(OURS) else "tab:gray" for r in here]
        axis.barh([r["variant"] for r in here], [float(r["ratio_to_products"]) for r in here], color=colors)
        axis.axvline(1, color="black", linewidth=1)
        axis.set_title("N {}, V {}, D {}, {}".format(*size), fontsize=9)
        axis.set_xlabel("time / three products of the same run")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def run_all(names: list[str], arguments: argparse.Namespace) -> None:
    """Some variants over all sizes, in this process."""
    results = Results("speed", arguments.output, more=True)
    rounds = arguments.rounds or (2 if rehearsing() else 12 if arguments.device == "cuda" else 9)
    for size, dtype in sizes(arguments.device):
        measure(names, size, dtype, arguments.device, rounds, results)


def run_apart(names: list[str], arguments: argparse.Namespace, seconds: float) -> None:
    """The same in a process of its own, stopped when its time is over."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.kernels.speed", "--device", arguments.device]
    command += ["--output", str(arguments.output)] if arguments.output else []
    command += ["--rounds", str(arguments.rounds)] if arguments.rounds else []
    try:
        subprocess.run([*command, "--only", *names], timeout=max(seconds, 1.0))
    except subprocess.TimeoutExpired:
        print(f"left out: {', '.join(names)}: not done in {seconds:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default=rehearsal.device())
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, default=3600.0, help="start no peer later")
    parser.add_argument(
        "--only", nargs="+", metavar="VARIANT", help="measure these alone, here, beside what was measured"
    )
    arguments = parser.parse_args()
    if arguments.only:
        run_all(arguments.only, arguments)
        return
    end = time.monotonic() + arguments.seconds
    Results("speed", arguments.output).clear()
    groups = [list(our_variants(arguments.device)), *([name] for name in peer_makers(arguments.device))]
    for names in groups:
        if time.monotonic() < end:
            run_apart(names, arguments, end - time.monotonic())
    results = Results("speed", arguments.output, more=True)
    print(table(results.rows))
    try:
        plot(results.rows, results.path / "speed.png")
    except ImportError as error:
        left_out("speed.png", results.path, error)


if __name__ == "__main__":
    main()
