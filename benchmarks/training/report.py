"""From rounds to figures: medians with intervals, ratios round by round, a table, a picture."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.intervals import Interval, median_interval
from benchmarks.kernels.results import Results
from benchmarks.training.parts import PARTS
from benchmarks.training.picture import draw_size
from benchmarks.training.rounds import WARMUP
from benchmarks.training.sizes import Size
from mtllm_ds import atomic

LEVEL = 0.05
"""Outside of all intervals together"""
TITLES = {
    "ours": "ours", "bare": "our engine alone: forward, backward, step", "plain": "two passes, layers gathered whole",
    "trainer": "Trainer + PEFT + DeepSpeed ZeRO-3", "alone": "one rank, plain PyTorch", "liger": "ours, liger-kernel",
    "no_flash": "ours, SDPA", "liger_no_flash": "ours, liger-kernel, SDPA",
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """One variant over the rounds that count."""

    seconds: Interval
    """Of a step: the median"""
    documents_per_second: float
    tokens_per_second: float
    """The LLM's tokens of both passes' documents, each document once"""
    peak_bytes: int
    over_ours: Interval | None
    """Its seconds over ours in the same round: the median; None of ours, and where ours did not run beside it"""


def read_rounds(path: Path) -> dict[str, list[dict[str, float]]]:
    """By variant: its rounds, in order, warm-up left out."""
    found: dict[str, list[dict[str, float]]] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            name = row.pop("variant")
            if int(row["round"]) >= WARMUP:
                found.setdefault(name, []).append({key: float(value) for key, value in row.items()})
    return found


def figures_of(rounds: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Measured]:
    """By variant, in the order in which they stand."""
    ours = {row["round"]: row["seconds"] for row in rounds.get("ours", ())}
    found = {}
    for name, rows in rounds.items():
        ratios = [row["seconds"] / ours[row["round"]] for row in rows if row["round"] in ours]
        found[name] = Measured(
            seconds=median_interval([row["seconds"] for row in rows], LEVEL),
            documents_per_second=statistics.median(row["documents"] / row["seconds"] for row in rows),
            tokens_per_second=statistics.median(row["llm_tokens"] / row["seconds"] for row in rows),
            peak_bytes=int(max(row["peak_bytes"] for row in rows)),
            over_ours=median_interval(ratios, LEVEL) if name != "ours" and ratios else None,
        )
    return found


def loop_overhead(found: Mapping[str, Measured]) -> float | None:
    """What our loop adds to forward, backward and step, as a share of these; None where either did not run."""
    bare = found.get("bare")
    return None if bare is None or bare.over_ours is None else 1 / bare.over_ours.mean - 1


def table_of(found: Mapping[str, Measured]) -> str:
    """Markdown: a row a variant."""
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
    shutil.copy(folder / "rounds.csv", kept.path / f"{size.name}_rounds.csv")
    atomic.write_bytes(kept.path / f"{size.name}.png", draw_size(size.name, found, TITLES, where))
    text = f"{table_of(found)}\n\n{parts_table(where)}\n\nProducts alone, at the machine's measured rate: {share:.0%} of our step"
    atomic.write_text(kept.path / f"{size.name}.md", f"{text}\n")
    return text


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
