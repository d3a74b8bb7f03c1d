"""`mtllm-ds evaluate tables`: tables, pictures and report.html from files of predictions."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtllm_ds.command_line import Subcommands

_EXAMPLES = 20


def add_tables(commands: Subcommands) -> None:
    """`tables` among the subcommands."""
    tables = commands.add_parser("tables", help="tables, pictures and report.html from files of predictions")
    tables.set_defaults(run=run)
    add = tables.add_argument
    add("--predictions", type=Path, nargs="+", required=True, metavar="FILE", help="of one task")
    add("--output", type=Path, required=True, metavar="DIR")
    add("--title", help="heading of the report (default: the task)")
    add(
        "--generation",
        type=Path,
        metavar="DIR",
        help="an --output of `evaluate generation`: its tables in the same report",
    )
    add("--compare", nargs=2, metavar=("FIRST", "SECOND"), help="paired bootstrap of one system minus another")


def run(options: argparse.Namespace) -> None:
    from rich.console import Console

    from mtllm_ds.evaluation.answers.predictions import read_predictions
    from mtllm_ds.evaluation.generation.found import load_found
    from mtllm_ds.evaluation.report.generation_sections import sections_of
    from mtllm_ds.evaluation.report.parts import Report
    from mtllm_ds.evaluation.report.tables import build_tables
    from mtllm_ds.evaluation.report.writing import compare_systems, write_report

    predictions = read_predictions(options.predictions)
    tables = tuple(build_tables(predictions))
    comparisons = compare_systems(predictions, tables, *options.compare) if options.compare else ()
    sections = () if options.generation is None else sections_of(load_found(options.generation / "found"), _EXAMPLES)
    title = options.title or predictions.facts.task
    report = Report(title=title, tables=tables, comparisons=comparisons, sections=sections)
    write_report(report, options.output, Console())
    print(f"report: {options.output / 'report.html'}")
