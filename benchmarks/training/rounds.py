"""All variants of a size, round by round: in each round every variant makes the same step, on the same documents.

python -m benchmarks.training.rounds cpu FOLDER
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.training.material import DOCUMENTS, FORWARDS
from benchmarks.training.ranks import KINDS
from benchmarks.training.sizes import Size, Variant, size_named
from benchmarks.training.turns import Group, Turn
from mtllm_ds import atomic

WARMUP = 3
"""Rounds that are left out: DeepSpeed learns the order of its gathers in the first two, and allocators their sizes"""

Row = dict[str, Any]


def measure(size: Size, folder: Path) -> None:
    """Write `rounds.csv`: a row a variant and round, warm-up included."""
    shutil.rmtree(folder / "runs", ignore_errors=True)
    work = work_of_steps(folder)
    rows: list[Row] = []
    for row in _rounds(size, folder, size.variants):
        rows.append({**row, **work[row["round"]]})
        _write(folder / "rounds.csv", rows)
        print(f"round {row['round']:3} {row['variant']:16} {row['seconds']:8.3f} s", flush=True)


def work_of_steps(folder: Path) -> list[Row]:
    """Documents and tokens of each step, over all ranks."""
    documents = json.loads((folder / DOCUMENTS).read_text(encoding="utf-8"))
    lengths = {side: [len(ids) for ids in rows] for side, rows in documents.items()}
    steps = json.loads((folder / FORWARDS).read_text(encoding="utf-8"))
    found = []
    for step in steps:
        places = [place for forward in step for rank in forward for place in rank]
        tokens = {f"{side}_tokens": sum(own[place] for place in places) for side, own in lengths.items()}
        found.append({"documents": len(places), **tokens})
    return found


def _rounds(size: Size, folder: Path, variants: Sequence[Variant]) -> Any:
    """Rows of the rounds of some variants. One that fails to start or in a turn is told, and the others go on."""
    with ExitStack() as stack:
        groups = {}
        for variant in variants:
            group = Group(
                KINDS[variant.kind], folder, variant.name, variant.overrides, size.num_rounds,
                **_ranks_of(variant, size),
            )  # fmt: skip
            stack.callback(group.close)
            groups[variant.name] = group
        for name, group in list(groups.items()):
            if not _told(name, group.wait_until_ready):
                del groups[name]
        began = time.monotonic()
        for number in range(size.num_rounds):
            if time.monotonic() - began > size.seconds:
                break
            names = list(groups)
            for name in names[number % len(names) :] + names[: number % len(names)] if names else ():
                if turns := _told(name, groups[name].take):
                    yield _row(number, name, turns)
                else:
                    del groups[name]


def _ranks_of(variant: Variant, size: Size) -> dict[str, int]:
    """One rank takes all cores that the ranks of others share."""
    if variant.kind == "alone":
        return {"num_ranks": 1, "num_threads": size.num_ranks * size.num_threads}
    return {"num_ranks": size.num_ranks, "num_threads": size.num_threads}


def _told(name: str, work: Any) -> Any:
    """What the work gives, true where it gives nothing; None of a variant that fails, which is told."""
    try:
        return work() or True
    except RuntimeError as error:
        print(f"left out: {name}: {error}", flush=True)
        return None


def _row(number: int, name: str, turns: Sequence[Turn]) -> Row:
    """The slowest rank's seconds, and the largest one's memory."""
    seconds = max(turn.seconds for turn in turns)
    peak = max(turn.peak_bytes for turn in turns)
    return {"round": number, "variant": name, "seconds": round(seconds, 6), "peak_bytes": peak}


def _write(path: Path, rows: Sequence[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic.write_text(path, text.getvalue())


if __name__ == "__main__":
    measure(size_named(sys.argv[1]), Path(sys.argv[2]))
