"""Time and memory of loss plus dH for a shared frozen head, beside the three products alone.

python -m benchmarks.kernels.speed [--device cpu|cuda] [--output FOLDER]
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.kernels.results import save
from benchmarks.kernels.timing import interleaved, memory
from benchmarks.kernels.variants import OURS, Inputs, Products, gradient, variants

FLOOR = "three products"
CPU_SIZES = {"float32": [(1024, 32000, 512)], "bfloat16": [(512, 32000, 512)]}
GPU_SIZES = {"bfloat16": [(8192, 128256, 4096), (8192, 128256, 1024), (8192, 256206, 1024), (2048, 32000, 2048)]}
GPU_FLOOR_ROWS = 4096
EAGER_BYTES_A_LOGIT, LARGEST_EAGER_BYTES = 50, 120e9


def inputs(num_rows: int, vocabulary: int, width: int, device: str, dtype: torch.dtype) -> Inputs:
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    weight = (normal(vocabulary, width) * 2 * width**-0.5).to(dtype)
    student, noise = normal(num_rows, width), normal(num_rows, width)
    return Inputs(student.to(dtype), (student + 0.2 * noise).to(dtype), weight)


def measure(size: tuple[int, int, int], dtype: torch.dtype, device: str, rounds: int) -> list[dict]:
    """One row a variant: quantiles, ratio to the floor of the same run, TFLOP/s of three products, memory."""
    num_rows, vocabulary, width = size
    x = inputs(*size, device, dtype)
    floor = Products(x, GPU_FLOOR_ROWS if device == "cuda" else None)
    functions: dict[str, Callable[[], object]] = {FLOOR: floor}
    for name, variant in variants(device).items():
        if (
            name.endswith("eager")
            and device == "cuda"
            and EAGER_BYTES_A_LOGIT * num_rows * vocabulary > LARGEST_EAGER_BYTES
        ):
            print(f"left out: {name} at {size} would not fit", flush=True)
            continue
        functions[name] = partial(gradient, variant, x)
    used = {}
    for name in list(functions):
        try:
            functions[name]()  # compiles; what a machine cannot run is told and left out
            used[name] = memory(functions[name], device)
        except (RuntimeError, ImportError, NotImplementedError, AssertionError) as error:
            if name.startswith((OURS, FLOOR)):
                raise
            print(f"left out: {name} at {size}: {type(error).__name__}: {str(error)[:200]}", flush=True)
            del functions[name]
        if device == "cuda":
            torch.cuda.empty_cache()
    times = interleaved(functions, rounds, device)
    work = 3 * 2.0 * num_rows * vocabulary * width
    rows = []
    for name, t in times.items():
        row = {"variant": name, "dtype": str(dtype).removeprefix("torch."), "N": num_rows, "V": vocabulary, "D": width}
        row |= {"seconds": t.median, "seconds_20": t.low, "seconds_80": t.high, "rounds": rounds}
        row |= {"ratio_to_products": t.median / times[FLOOR].median, "tflops_of_three_products": work / t.median / 1e12}
        if device == "cpu":
            row |= {"processor_seconds": t.processor, "processor_ratio": t.processor / times[FLOOR].processor}
        rows.append(row | used[name])
    return rows


def table(rows: list[dict]) -> str:
    lines = [
        f"{'N, V, D, dtype, variant':58}{'ms':>10}{'20%':>10}{'80%':>10}{'x products':>12}{'x CPU s':>9}{'peak MB':>10}"
    ]
    for r in rows:
        name = f"{r['N']}, {r['V']}, {r['D']}, {r['dtype']}, {r['variant']}"
        lines.append(
            f"{name:58}{1e3 * r['seconds']:>10.2f}{1e3 * r['seconds_20']:>10.2f}{1e3 * r['seconds_80']:>10.2f}"
            f"{r['ratio_to_products']:>12.3f}{r.get('processor_ratio', 0):>9.3f}{r['peak_bytes'] / 1e6:>10.0f}"
        )
    return "\n".join(lines)


def summarize(rows: list[dict]) -> dict[str, float]:
    """Flat figures, name to number."""
    figures = (
        "seconds",
        "ratio_to_products",
        "processor_ratio",
        "tflops_of_three_products",
        "peak_bytes",
        "allocated_bytes",
    )
    return {
        f"{key}/{r['variant']}/{r['dtype']}/{r['N']}x{r['V']}x{r['D']}": r[key]
        for r in rows
        for key in figures
        if key in r
    }


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
        axis.barh([r["variant"] for r in here], [r["ratio_to_products"] for r in here], color=colors)
        axis.axvline(1, color="black", linewidth=1)
        axis.set_title("N {}, V {}, D {}, {}".format(*size), fontsize=9)
        axis.set_xlabel("time / three products of the same run")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rounds", type=int)
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    rows = []
    for dtype, sizes in (GPU_SIZES if on_gpu else CPU_SIZES).items():
        for size in sizes:
            rounds = arguments.rounds or (12 if on_gpu else 9)
            rows += measure(size, getattr(torch, dtype), arguments.device, rounds)
    print(table(rows))
    path = save("speed", rows, summarize(rows), arguments.output)
    plot(rows, path / "speed.png")


if __name__ == "__main__":
    main()
