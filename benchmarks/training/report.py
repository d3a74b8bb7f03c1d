"""What is written of the figures: a table, a picture, `summary.json`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.intervals import Interval
from benchmarks.kernels.results import Results
from benchmarks.training.measured import Measured, figures_of, read_rounds
from benchmarks.training.parts import PARTS
from benchmarks.training.picture import draw_size
from benchmarks.training.scaling import draw_from_one_gpu
from benchmarks.training.sizes import Size
from mtllm_ds import atomic

TITLES = {
    "ours": "ours", "bare": "our engine alone: forward, backward, step", "plain": "two passes, layers gathered whole",
    "trainer": "Trainer + PEFT + DeepSpeed ZeRO-3", "alone": "one rank, plain PyTorch", "sdpa": "ours, SDPA",
    "sdpa_liger": "ours, SDPA, liger-kernel", "flash": "ours, flash-attn", "flash_liger": "ours, flash-attn, liger-kernel",
    "sdpa_compiled": "ours, SDPA, layers compiled",
}  # fmt: skip


def loop_overhead(found: Mapping[str, Measured]) -> float | None:
    """What our loop adds to forward, backward and step, as a share of these; None where either did not run."""
    bare = found.get("bare")
    return None if bare is None or bare.over_ours is None else 1 / bare.over_ours.mean - 1


def table_of(size: Size, found: Mapping[str, Measured]) -> str:
    """Markdown: a row a variant; those that did not run are named below."""
    lines = [
        "| variant | s per step (median, 95% interval) | documents/s | tokens/s | over ours | GB |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        over = "" if one.over_ours is None else _interval(one.over_ours)
        lines.append(
            f"| {TITLES.get(name, name)} | {_interval(one.seconds)} | {one.documents_per_second:.1f} | "
            f"{one.tokens_per_second:,.0f} | {over} | {one.peak_bytes / 1e9:.1f} |"
        )
    overhead = loop_overhead(found)
    missing = [TITLES.get(one.name, one.name) for one in size.variants if one.name not in found]
    if missing:
        lines += ["", f"Left out, since it failed (the log of the step `rounds` tells why): {', '.join(missing)}"]
    if overhead is not None:
        lines += ["", f"Loop overhead over forward, backward and step on the same batches: {overhead:+.1%}"]
    return "\n".join(lines)


def write_report(size: Size, folder: Path, results: Path) -> str:
    """Figures, picture and rounds of a size into `results`; returns the table."""
    found = figures_of(read_rounds(folder / "rounds.csv"))
    kept = Results(size.name, results)
    kept.clear()
    for name, one in found.items():
        figures = {
            "seconds": one.seconds.mean, "seconds_low": one.seconds.low, "seconds_high": one.seconds.high,
            "documents_per_second": one.documents_per_second, "tokens_per_second": one.tokens_per_second,
            "peak_bytes": one.peak_bytes,
        }  # fmt: skip
        if one.over_ours is not None:
            over = one.over_ours
            figures |= {"over_ours": over.mean, "over_ours_low": over.low, "over_ours_high": over.high}
        kept.add({"variant": name, **figures}, {f"training/{size.name}/{name}/{key}": figures[key] for key in figures})
    overhead = loop_overhead(found)
    if overhead is not None:
        kept.add({"variant": "loop overhead", "share": overhead}, {f"training/{size.name}/loop_overhead": overhead})
    where = json.loads((folder / PARTS).read_text(encoding="utf-8"))
    for kind in ("parts", "kinds"):
        for name, seconds in where[kind].items():
            key = f"training/{size.name}/{kind}/{name.replace(' ', '_')}"
            kept.add({"variant": f"{kind}: {name}", "seconds": seconds}, {key: seconds / where["step"]})
    share = where["product_flops"] / where["product_rate"] / found["ours"].seconds.mean
    kept.add({"variant": "product share", "share": share}, {f"training/{size.name}/product_share": share})
    if size.scales:
        kept.add(*scaling_row(size, folder, found["ours"].seconds.mean, kept.path))
    shutil.copy(folder / "rounds.csv", kept.path / f"{size.name}_rounds.csv")
    atomic.write_bytes(kept.path / f"{size.name}.png", draw_size(size.name, found, TITLES, where))
    products = f"Products alone, at the machine's measured rate: {share:.0%} of our step"
    text = "\n\n".join([table_of(size, found), parts_table(where), products])
    atomic.write_text(kept.path / f"{size.name}.md", f"{text}\n")
    return text


def scaling_row(size: Size, folder: Path, seconds: float, results: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Documents a second of the plan that begins at this step, by GPUs; its picture into `results`."""
    picture, found = draw_from_one_gpu(folder, seconds)
    atomic.write_bytes(results / f"{size.name}_scaling.png", picture)
    row = {"variant": "planned scaling", **{f"documents_per_second_{gpus}": rate for gpus, rate in found.items()}}
    return row, {f"training/{size.name}/planned/{gpus}_gpus/documents_per_second": rate for gpus, rate in found.items()}


def parts_table(where: Mapping[str, Any]) -> str:
    """Markdown: shares of our step under the profiler, by part and by kind of operator."""
    columns = [
        [
            f"{name} {seconds / where['step']:.1%}"
            for name, seconds in sorted(where[kind].items(), key=lambda one: -one[1])
        ]
        for kind in ("parts", "kinds")
    ]
    rows = [f"| {part} | {kind} |" for part, kind in zip_longest(*columns, fillvalue="")]
    return "\n".join(["| by part | by kind of operator |", "|---|---|", *rows])


def _interval(one: Interval) -> str:
    ends = f" ({one.low:.3f} to {one.high:.3f})" if np.isfinite([one.low, one.high]).all() else ""
    return f"{one.mean:.3f}{ends}"
