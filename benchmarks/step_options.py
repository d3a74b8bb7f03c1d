"""What the command lines of benchmarks in steps (`steps.py`) share: their options, what these do, and what is said at the end."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.steps import Step, Steps, chosen_steps, describe, require_same
from mtllm_ds.command_line import positive_float
from mtllm_ds.evaluation.report.parts import Section


def add_step_options(parser: argparse.ArgumentParser, benchmark: str, *, precision: str) -> None:
    """Options of where, how long and which steps; `precision` is the default."""
    add = parser.add_argument
    add("--output", type=Path, help=f"folder of the steps (default runs/{benchmark}/BUDGET)")
    results = f"folder of the report (default benchmarks/results/{benchmark}/BUDGET; smoke: OUTPUT/report)"
    add("--results", type=Path, help=results)
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--precision", choices=("fp32", "bf16"), default=precision, help="that the models compute in")
    only = "run only these steps, by name or folder, and what they need"
    add("--only", nargs="+", default=[], metavar="STEP", help=only)
    add(
        "--minutes",
        type=positive_float,
        help="end after so many, and go on another time (default: the budget's, if any)",
    )
    add("--dry-run", action="store_true", help="print the plan and exit")


def attention_on(device: str) -> str:
    """What trains fastest there: on CPU the backward of PyTorch's fused attention takes longer than plain products for texts
    this short (a step of SmolLM2 on 8 x 110 tokens 4.2 s, and 3.6 s so)."""
    return "eager" if device == "cpu" else "auto"


def markdown(section: Section) -> str:
    """A section's table."""
    rows = [section.columns, ["---"] * len(section.columns), *section.rows]
    return "\n".join([f"### {section.heading}", "", *(f"| {' | '.join(row)} |" for row in rows)])


def take_steps(
    options: argparse.Namespace,
    root: Path,
    steps: Sequence[Step],
    budget: dict[str, Any],
    *,
    num_jobs: int,
    num_threads: int = 1,
    minutes: float | None = None,
    more: Mapping[str, object] | None = None,
    check: Callable[[], None] = lambda: None,
) -> list[Step] | None:
    """Do what the options of `add_step_options` say. The steps that are left, or None where the plan alone was asked for.

    Args:
        budget: what the steps that are done must have been done with, as are text, precision and device
        num_threads: of each step
        minutes: where `--minutes` says nothing
        more: other settings that bind a run
        check: asked before the first step

    Raises:
        UserError: a step fails, or the run was begun with other settings.
    """
    console = Console()
    environment = {
        "OMP_NUM_THREADS": str(num_threads), "DS_ACCELERATOR": options.device, "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    runner = Steps(root, num_jobs, environment, console)
    chosen = chosen_steps(steps, options.only)
    if options.dry_run:
        console.print(describe(chosen, runner.is_done, num_jobs), highlight=False, markup=False)
        return None
    check()
    settings = {"text": str(options.text), "precision": options.precision, "device": options.device}
    require_same(root / "settings.json", {"budget": budget, **settings, **(more or {})})
    runner.run(chosen, 60 * (options.minutes or minutes or float("inf")), ends_there=True)
    left = [step for step in steps if not runner.is_done(step)]
    if left:
        console.print(f"{len(left)} steps are left, start again to go on", highlight=False)
    return left


def print_report(folder: Path, verdict: str) -> None:
    """The table and the verdict of a report that was written."""
    table = (folder / "table.md").read_text(encoding="utf-8")
    Console().print(
        f"{table}\n{verdict}\nreport: {folder / 'report.html'}", highlight=False, markup=False, soft_wrap=True
    )
