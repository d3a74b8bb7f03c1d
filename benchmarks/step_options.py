"""What the command lines of benchmarks in steps (`steps.py`) share: their options, and what they write and say at the end."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

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


def markdown(section: Section) -> str:
    """A section's table."""
    rows = [section.columns, ["---"] * len(section.columns), *section.rows]
    return "\n".join([f"### {section.heading}", "", *(f"| {' | '.join(row)} |" for row in rows)])


def print_report(console: Console, folder: Path, verdict: str) -> None:
    """The table and the verdict of a report that was written."""
    table = (folder / "table.md").read_text(encoding="utf-8")
    console.print(
        f"{table}\n{verdict}\nreport: {folder / 'report.html'}", highlight=False, markup=False, soft_wrap=True
    )
