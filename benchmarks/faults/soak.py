"""Train for hours while ranks are killed at random; the losses are those of an undisturbed run, and memory stays flat.

    python -m benchmarks.faults.soak --hours 2 [--output runs/soak] [--results FOLDER]

Memory is what the C library and Python have handed out and not got back (`mallinfo2`, `sys.getallocatedblocks`), once per step:
what the kernel has taken back or not says nothing.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import sys
import time
from pathlib import Path

from rich.console import Console

from benchmarks.faults.injection import MEMORY, Fault
from benchmarks.faults.runs import Material, embedded_material, losses_of
from benchmarks.steps import commit
from mtllm_ds import atomic
from mtllm_ds.command_line import Parser, positive_float, positive_int, run_and_exit

_KINDS = ("SIGKILL", "SIGTERM", "SIGSTOP", "abort", "exception")
_FLAT = 0.03


def soak(material: Material, steps: int, seconds: float, draw: random.Random, console: Console) -> dict[str, float]:
    """Kill and go on until the run has made its steps; figures of it."""
    name, began, kills, mistakes = "soak", time.monotonic(), 0, 0
    shutil.rmtree(material.folder / name, ignore_errors=True)
    material.run(name).mkdir(parents=True)
    length = [f"run.max_steps={steps}"]
    while time.monotonic() - began < 4 * seconds:
        done = max(losses_of(material.run(name)), default=0) if (material.run(name) / "metrics.jsonl").exists() else 0
        note = material.folder / name / "struck"
        note.unlink(missing_ok=True)
        place = draw.choice(("step", "save", "rollout"))
        fault = Fault(draw.choice(_KINDS), place, draw.randrange(2), done + draw.randint(2, max(3, steps // 8)), note)
        ranks = material.start(name, *length, fault=fault)
        statuses = ranks.wait(4 * seconds)
        mistakes += None in statuses
        ranks.kill()
        console.print(f"{fault.kind} in a {place} on rank {fault.rank}: {statuses}", highlight=False)
        if statuses == [0, 0]:
            break
        kills += note.exists()
    found, truth = losses_of(material.run(name)), losses_of(material.run(f"undisturbed-{steps}"))
    worst = max((abs(found[step] - loss) / abs(loss) for step, loss in truth.items() if step in found), default=1.0)
    return {
        "hours": (time.monotonic() - began) / 3600,
        "kills": kills,
        "ranks_that_hung": mistakes,
        "steps": len(found),
        "steps_of_the_undisturbed_run": len(truth),
        "largest_relative_difference_of_a_loss": worst,
        **growth(material.folder / f"undisturbed-{steps}"),
    }


def growth(folder: Path) -> dict[str, float]:
    """Of each rank whose memory stands in a folder: that in the last quarter of its steps over that in the second, by medians."""
    figures = {}
    for path in sorted(folder.glob(MEMORY.format(rank="*"))):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        quarter = len(rows) // 4
        for key in ("allocated_bytes", "python_blocks"):
            early = statistics.median(row[key] for row in rows[quarter : 2 * quarter])
            late = statistics.median(row[key] for row in rows[-quarter:])
            figures[f"{path.stem}/{key}/growth"] = late / early - 1
        figures[f"{path.stem}/allocated_bytes"] = rows[-1]["allocated_bytes"]
    return figures


def main() -> int:
    """The undisturbed run, which also says how many steps an hour has; then the one under fire."""
    parser = Parser(prog="python -m benchmarks.faults.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--hours", type=positive_float, default=2.0, help="of both runs together, about (default %(default)g)"
    )
    parser.add_argument("--steps", type=positive_int, help="of the run, in place of --hours")
    parser.add_argument("--output", type=Path, default=Path("runs/soak"), help="(default %(default)s)")
    parser.add_argument(
        "--results", type=Path, default=Path("benchmarks/results/cpu/soak"), help="(default %(default)s)"
    )
    options = parser.parse_args()
    console, material = Console(), embedded_material(options.output.absolute())
    began = time.monotonic()
    assert material.truth
    a_step = (time.monotonic() - began) / len(material.truth)
    steps = options.steps or max(40, int(options.hours * 3600 / 3 / a_step))
    seconds = max(600.0, options.hours * 3600)
    undisturbed = f"undisturbed-{steps}"
    shutil.rmtree(material.folder / undisturbed, ignore_errors=True)
    (material.folder / undisturbed).mkdir(parents=True)
    ranks = material.start(undisturbed, f"run.max_steps={steps}", memory=material.folder / undisturbed)
    statuses = ranks.wait(4 * seconds)
    ranks.kill()
    assert statuses == [0, 0], ranks.said
    figures = soak(material, steps, seconds, random.Random(0), console)
    options.results.mkdir(parents=True, exist_ok=True)
    atomic.write_figures(options.results / "summary.json", figures)
    atomic.write_json(options.results / "provenance.json", {"commit": commit(), "ranks": 2, "steps": steps})
    grown = max(value for name, value in figures.items() if name.endswith("/growth"))
    good = (
        figures["steps"] == figures["steps_of_the_undisturbed_run"]
        and figures["largest_relative_difference_of_a_loss"] < 1e-5
        and not figures["ranks_that_hung"]
        and grown < _FLAT
    )
    console.print(f"{'as promised' if good else 'NOT as promised'}: {figures}", highlight=False, soft_wrap=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    run_and_exit(main)
