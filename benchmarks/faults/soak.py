"""Train for hours while ranks are killed at random; the losses are those of an undisturbed run, and memory stays flat.

    python -m benchmarks.faults.soak --hours 2 [--output runs/soak] [--results FOLDER]

A soak that is itself killed goes on where it was. Memory is what the C library and Python have handed out and not got back
(`mallinfo2`, `sys.getallocatedblocks`), once per step: what the kernel has taken back or not says nothing.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.faults.injection import MEMORY, Fault
from benchmarks.faults.ranks import Ranks
from benchmarks.faults.runs import Material, embedded_material, losses_of, origin, rows_of
from mtllm_ds import atomic
from mtllm_ds.command_line import Parser, positive_float, positive_int, run_and_exit
from mtllm_ds.errors import UserError

_KINDS = ("SIGKILL", "SIGTERM", "SIGSTOP", "abort", "exception")
_FLAT = 0.03
_STILL_SECONDS = 300.0
"""Without a new step, of ranks whose watchers end them after 30: the soak itself has found a hang."""
_LEAST_STEPS = 40
_LONG_STEPS = 100
"""A process under fire that has made so many is looked at for memory that grows."""
_LONGEST_PEACE_STEPS = 400
_SHARE = 0.45
"""Of the time, for the undisturbed run: the other makes the same steps and is started again and again."""


@dataclass
class Progress:
    """Of the run under fire, kept on disk."""

    rounds: int = 0
    kills: int = 0
    ranks_that_hung: int = 0
    seconds: float = 0.0


def soak(material: Material, steps: int, seconds: float, console: Console) -> dict[str, float]:
    """Kill and go on until the run has made its steps; figures of it."""
    folder = material.folder / "soak"
    place, log = folder / "progress.json", material.run("soak") / "metrics.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    progress = Progress(**json.loads(place.read_text(encoding="utf-8"))) if place.exists() else Progress()
    while progress.seconds < 4 * seconds:
        began = time.monotonic()
        done = max(losses_of(material.run("soak")), default=0) if log.exists() else 0
        fault = _draw_fault(progress.rounds, done, steps, folder / "struck")
        fault.note.unlink(missing_ok=True)
        ranks = material.start("soak", f"run.max_steps={steps}", fault=fault, memory=folder)
        statuses = _wait(ranks, log)
        progress.rounds += 1
        progress.ranks_that_hung += statuses.count(None)
        progress.kills += fault.note.exists()
        progress.seconds += time.monotonic() - began
        atomic.write_json(place, asdict(progress))
        console.print(f"{fault.kind} in a {fault.place} on rank {fault.rank}: {statuses}", highlight=False)
        if statuses == [0, 0]:
            break
    found, truth = losses_of(material.run("soak")), losses_of(material.run("undisturbed"))
    worst = max((abs(found[step] - loss) / abs(loss) for step, loss in truth.items() if step in found), default=1.0)
    under_fire = {f"under_fire/{name}": value for name, value in growth(folder, _LONG_STEPS).items()}
    return {
        "hours": progress.seconds / 3600,
        "kills": progress.kills,
        "ranks_that_hung": progress.ranks_that_hung,
        "steps": len(found),
        "steps_of_the_undisturbed_run": len(truth),
        "largest_relative_difference_of_a_loss": worst,
        **growth(material.folder / "undisturbed", _LEAST_STEPS),
        **under_fire,
    }


def _draw_fault(number: int, done: int, steps: int, note: Path) -> Fault:
    """The fault of one round, the same whenever the soak is started again."""
    draw = random.Random(number)
    step = done + draw.randint(2, max(3, min(steps // 8, _LONGEST_PEACE_STEPS)))
    return Fault(draw.choice(_KINDS), draw.choice(("step", "save", "rollout")), draw.randrange(2), step, note)


def _wait(ranks: Ranks, log: Path) -> list[int | None]:
    """Exit statuses; None of a rank that stands still."""
    size, since = -1, time.monotonic()
    while None in (statuses := ranks.wait(1.0)) and time.monotonic() - since < _STILL_SECONDS:
        now = log.stat().st_size if log.exists() else 0
        if now != size:
            size, since = now, time.monotonic()
    ranks.kill()
    return statuses


def undisturbed(material: Material, steps: int) -> None:
    """The run that nothing strikes, made in one go: memory that grows is looked for in one process."""
    folder = material.folder / "undisturbed"
    if (material.run("undisturbed") / "checkpoints" / f"step_{steps:08d}").exists():
        return
    material.fresh("undisturbed")
    ranks = material.start("undisturbed", f"run.max_steps={steps}", memory=folder)
    statuses = _wait(ranks, material.run("undisturbed") / "metrics.jsonl")
    if statuses != [0, 0]:
        raise UserError(f"--output={material.folder}: the undisturbed run ended with {statuses}; see {folder}/log.txt")


def growth(folder: Path, least_steps: int) -> dict[str, float]:
    """Of each rank whose memory stands in a folder, that in the last quarter of its steps over that in the second, by medians: the
    largest of all its processes that have made so many steps."""
    figures: dict[str, float] = {}
    for path in sorted(folder.glob(MEMORY.format(rank="*"))):
        for rows in _of_processes(path):
            if len(rows) < least_steps:
                continue
            quarter = len(rows) // 4
            for key in ("allocated_bytes", "python_blocks"):
                early = statistics.median(row[key] for row in rows[quarter : 2 * quarter])
                late = statistics.median(row[key] for row in rows[-quarter:])
                name = f"{path.stem}/{key}/growth"
                figures[name] = max(figures.get(name, -1.0), late / early - 1)
            figures[f"{path.stem}/allocated_bytes"] = rows[-1]["allocated_bytes"]
    return figures


def _of_processes(path: Path) -> Iterator[list[dict[str, float]]]:
    """Rows of a file of memory, those of each process together."""
    rows: dict[int, list[dict[str, float]]] = {}
    for row in rows_of(path):
        rows.setdefault(row["process"], []).append(row)
    yield from rows.values()


def plan(material: Material, hours: float, steps: int | None) -> int:
    """Steps of both runs: as many as fit the time, by those of a short run. Kept, so that a soak started again is the same."""
    place = material.folder / "plan.json"
    asked = {"hours": hours, "steps_asked_for": steps}
    if place.exists() and (kept := json.loads(place.read_text(encoding="utf-8"))) | asked == kept:
        return int(kept["steps"])
    assert material.truth
    rows = [row for row in rows_of(material.run("truth") / "metrics.jsonl") if "loss" in row]
    a_step = (rows[-1]["seconds"] - rows[0]["seconds"]) / (len(rows) - 1)
    steps = steps or max(_LEAST_STEPS, int(hours * 3600 * _SHARE / a_step))
    for name in ("soak", "undisturbed"):
        shutil.rmtree(material.folder / name, ignore_errors=True)
    atomic.write_json(place, {**asked, "steps": steps, "seconds_per_step": a_step})
    return steps


def is_as_promised(figures: dict[str, float]) -> bool:
    """All steps, the same losses, no hang, flat memory."""
    return (
        figures["steps"] == figures["steps_of_the_undisturbed_run"]
        and figures["largest_relative_difference_of_a_loss"] < 1e-5
        and not figures["ranks_that_hung"]
        and max(value for name, value in figures.items() if name.endswith("/growth")) < _FLAT
    )


def main() -> int:
    """The undisturbed run, then the one under fire."""
    parser = Parser(prog="python -m benchmarks.faults.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--hours", type=positive_float, default=2.0, help="of both runs together, about (default %(default)g)"
    )
    parser.add_argument("--steps", type=positive_int, help=f"of the run, in place of --hours; at least {_LEAST_STEPS}")
    parser.add_argument("--output", type=Path, default=Path("runs/soak"), help="(default %(default)s)")
    parser.add_argument(
        "--results", type=Path, default=Path("benchmarks/results/cpu/soak"), help="(default %(default)s)"
    )
    options = parser.parse_args()
    if options.steps is not None and options.steps < _LEAST_STEPS:
        raise UserError(f"--steps={options.steps}: too few to see memory grow; take {_LEAST_STEPS} or more")
    console, material = Console(), embedded_material(options.output.absolute())
    steps = plan(material, options.hours, options.steps)
    console.print(f"{steps} steps", highlight=False)
    undisturbed(material, steps)
    figures = soak(material, steps, max(600.0, options.hours * 3600), console)
    options.results.mkdir(parents=True, exist_ok=True)
    atomic.write_figures(options.results / "summary.json", figures)
    atomic.write_json(options.results / "provenance.json", {**origin(), "steps": steps})
    good = is_as_promised(figures)
    console.print(f"{'as promised' if good else 'NOT as promised'}: {figures}", highlight=False, soft_wrap=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    run_and_exit(main)
