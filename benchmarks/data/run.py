"""All figures of the data stream: `python -m benchmarks.data.run --text FOLDER --work FOLDER`.

FOLDER of `--text` holds `CODE.tsv.xz`: an English segment, a tab, its translation.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
from pathlib import Path

from benchmarks.data.compare_readers import compare, summarize
from benchmarks.data.order_figures import order_figures
from benchmarks.data.parallel_text import prepare_parallel
from benchmarks.data.readers import READERS
from benchmarks.kernels.provenance import device_name, provenance
from mtllm_ds.atomic import write_figures, write_json
from mtllm_ds.data.shards.manifest import Manifest

PACKAGES = ("torch", "webdataset", "mosaicml-streaming", "litdata", "datasets", "tokenizers", "numpy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="keeps tokenizers and the formats between runs")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/cpu/data"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=3, help="readers are compared on every n-th language")
    given = parser.parse_args()
    (given.work / "all").mkdir(parents=True, exist_ok=True)
    (given.work / "some").mkdir(exist_ok=True)
    given.output.mkdir(parents=True, exist_ok=True)
    everything = prepare_parallel(given.text, given.work / "all")
    some = prepare_parallel(given.text, given.work / "some", given.every)
    rows = compare(Path(some.storage.root), given.work / "some", given.rounds)
    write_results(rows, everything, some, given.output, given.rounds)


def write_results(
    rows: list[dict[str, float | str]], everything: Manifest, some: Manifest, output: Path, rounds: int
) -> None:
    """The table of the readers, its picture, all figures as one flat JSON file, and where they come from."""
    with open(output / "readers.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    figures = summarize(rows) | order_figures(everything)
    figures["readers/samples"] = float(some.num_samples)
    origin = provenance(device_name())
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    origin |= {
        "versions": versions,
        "command": f"python -m benchmarks.data.run --text FOLDER --work FOLDER --rounds {rounds}",
        "note": "the machine did other work as well: compare figures a CPU second",
    }
    write_json(output / "provenance.json", origin)
    write_figures(output / "summary.json", figures)
    plot(figures, output / "readers.png")
    for name, value in figures.items():
        print(f"{name:60} {value:,.4g}")


def plot(figures: dict[str, float], path: Path) -> None:
    """Four panels, a bar a reader."""
    from matplotlib.figure import Figure

    panels = (
        ("samples_tokens_per_cpu_second", "tokens / CPU second, samples"),
        ("batches_tokens_per_cpu_second", "tokens / CPU second, padded batches"),
        ("resume_seconds", "seconds to resume at 90% of an epoch"),
        ("disk_bytes", "bytes on disk"),
    )
    figure = Figure(figsize=(12, 7), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        values = [figures[f"{reader}/{name}"] for reader in READERS]
        bars = axis.barh(list(READERS), values, color=["#c44e52"] + ["#8c8c8c"] * (len(READERS) - 1))
        axis.bar_label(bars, [f"{value:,.3g}" for value in values], padding=3)
        axis.invert_yaxis()
        axis.set_title(title)
        axis.margins(x=0.2)
        axis.set_xscale("log" if name == "resume_seconds" else "linear")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
