"""The report of an evaluation of generation: `languages.csv`, `summary.json`, `tables.json` and `report.html`."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mtllm_ds.atomic import write_figures, write_json, write_text
from mtllm_ds.evaluation.generation.found import Found, flat_figures
from mtllm_ds.evaluation.report.generation_sections import sections_of
from mtllm_ds.evaluation.report.html import render
from mtllm_ds.evaluation.report.parts import Report


def write_generation_report(
    found: Mapping[str, Found], folder: Path, title: str, facts: Mapping[str, str], num_examples: int
) -> None:
    """Write all files and print the figures."""
    figures = flat_figures(found)
    write_figures(folder / "summary.json", figures)
    write_json(folder / "tables.json", {"settings": dict(facts), "languages": _by_language(found)})
    write_text(folder / "languages.csv", _as_csv(found))
    report = Report(title=title, tables=(), sections=sections_of(found, num_examples), facts=facts)
    write_text(folder / "report.html", render(report, [], {}, {}))
    _print(found, Console(width=None if sys.stdout.isatty() else 140))


def _by_language(found: Mapping[str, Found]) -> dict[str, dict[str, dict[str, float]]]:
    """Language -> reading -> its figures, with those of its answers where it answers."""
    return {
        code: {
            name: {**{kind: own.mean(name, kind) for kind in ("nll", "kl")}, **own.figures.get(name, {})}
            for name in own.readings
        }
        for code, own in found.items()
    }


def _as_csv(found: Mapping[str, Found]) -> str:
    """A row per language and reading."""
    rows = [
        {"language": code, "reading": name, "prompts": len(found[code].rows), **figures}
        for code, readings in _by_language(found).items()
        for name, figures in readings.items()
    ]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _print(found: Mapping[str, Found], console: Console) -> None:
    """A row per language: the model beside the untouched LLM."""
    table = Table(title="Model | untouched LLM reading the prompt itself", title_justify="left")
    table.add_column("language", no_wrap=True)
    columns = {"NLL": "nll", "KL": "kl", "in its language": "fidelity", "loops": "loops", "chrF": "chrf"}
    for heading in columns:
        table.add_column(heading, justify="right")
    for code, readings in _by_language(found).items():
        pairs = [[readings[side].get(key) for side in ("model", "llm")] for key in columns.values()]
        table.add_row(code, *(" | ".join("-" if one is None else f"{one:.3g}" for one in pair) for pair in pairs))
    console.print(table)
