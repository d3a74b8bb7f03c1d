"""The report of an evaluation: tables on the terminal, `tables.json`, `summary.json`, pictures, and one `report.html`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable

from mtllm_ds.atomic import write_figures, write_json, write_text
from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.answers.predictions import Predictions
from mtllm_ds.evaluation.report import pictures
from mtllm_ds.evaluation.report.html import render
from mtllm_ds.evaluation.report.parts import Comparison, Picture, Report
from mtllm_ds.evaluation.report.tables import Table, compare, compare_each, competes, flat_summary

TITLES = {
    "majority": "majority class",
    "tfidf": "TF-IDF",
    "llm_direct": "LLM reads it itself",
    "mt_encoder": "MT encoder + head",
    "ridge": "ridge from the MT encoder",
    "ridge_centred": "ridge, centred by language",
    "translate_train": "translate-train",
    "translate_test": "translate-test",
    "translate_test_greedy": "translate-test, greedy",
    "translate_test_beam4": "translate-test, beam 4",
    "translate_test_tuned": "translate-test, tuned on round trips",
    "mtllm_direct": "MT-LLM, direct",
    "mtllm_stage2": "MT-LLM, stage 2",
    "wrong_tag": "control: wrong tag",
    "shuffled_connector": "control: shuffled connector",
    "english_originals": "English originals",
    "english_originals_tfidf": "TF-IDF on English originals",
}
_MOST_COLUMNS = 4
"""More systems than these are rows."""
HEADINGS = {"tables": "At a glance", "differences": "Differences"}
CAPTIONS = {
    "tables": "Accuracy a language. The bar runs from the tuned LLM's own reading (grey) to the English originals (green).",
    "differences": "Differences with 95% intervals of the paired bootstrap; green: better, red: worse, grey: undecided.",
}
SETTING_TITLES = {"plain": "Plain text", "copy_masked": "Copy-masked text"}


def title_of(system: str) -> str:
    """A system's name for people."""
    return TITLES.get(system, system)


def write_report(report: Report, folder: Path, console: Console | None = None) -> None:
    """Write `tables.json`, `summary.json`, `tables.png`, `differences.png` (with comparisons), `verdict.json` (with a verdict) and
    `report.html` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "tables.json", {table.setting: _as_json(table) for table in report.tables})
    write_figures(folder / "summary.json", summarise(report))
    if report.verdict is not None:
        write_json(folder / "verdict.json", asdict(report.verdict))
    images = {"tables": pictures.draw_tables(report.tables, TITLES, SETTING_TITLES)}
    if any(comparison.languages for comparison in report.comparisons):
        images["differences"] = pictures.draw_differences(report.comparisons, TITLES, SETTING_TITLES)
    for name, image in images.items():
        pictures.write_image(folder / f"{name}.png", image)
    shown = [Picture(image, HEADINGS[name], CAPTIONS[name]) for name, image in images.items()]
    write_text(folder / "report.html", render(report, shown, TITLES, SETTING_TITLES))
    if console is not None:
        print_tables(report, console)


def compare_systems(
    predictions: Predictions, tables: Sequence[Table], first: str, second: str, languages: Sequence[str] | None = None
) -> tuple[Comparison, ...]:
    """`first` minus `second` in every setting, over the given languages or else those of means that both answered.

    Raises `UserError` if the two have no language in common.
    """
    found = []
    for table in tables:
        answered = [c for c in table.mean_languages if first in table.cells[c] and second in table.cells[c]]
        chosen = answered if languages is None else list(languages)
        if not chosen:
            known = ", ".join(table.systems)
            raise UserError(
                f"{table.setting}: '{first}' and '{second}' share no language; the systems there are {known}"
            )
        overall = compare(predictions, first, second, table.setting, chosen)
        each = compare_each(predictions, first, second, table.setting, chosen)
        found.append(Comparison(first, second, table.setting, overall, each))
    return tuple(found)


def summarise(report: Report) -> dict[str, float]:
    """One flat mapping of every figure."""
    summary = flat_summary(report.tables)
    for comparison in report.comparisons:
        place = f"{comparison.setting}/difference/{comparison.first}-{comparison.second}"
        summary |= {f"{place}/{name}": value for name, value in asdict(comparison.overall).items()}
        for code, (difference, holm) in comparison.languages.items():
            summary |= {f"{place}/{code}": difference.mean, f"{place}/{code}/p_holm": holm}
    for system, cost in report.costs.items():
        summary[f"seconds_per_item/{system}"] = cost.seconds_per_item
        if cost.chrf is not None:
            summary[f"chrf/{system}"] = cost.chrf
    return summary


def print_tables(report: Report, console: Console) -> None:
    """The tables as text, and the verdict. Few systems stand side by side; many stand below each other."""
    for table in report.tables:
        heading = f"{report.title}: {SETTING_TITLES.get(table.setting, table.setting).lower()}"
        is_wide = len(table.systems) > _MOST_COLUMNS
        shown = _by_system(table, console.width) if is_wide else _by_language(table)
        shown.title, shown.title_justify = heading, "left"
        shown.caption_justify = "left"
        console.print(shown)
    if report.verdict is not None:
        console.print(report.verdict.line, highlight=False, markup=False, soft_wrap=True)


def _by_language(table: Table) -> RichTable:
    """A row per language, the means last."""
    shown = RichTable(caption=_caption(table))
    shown.add_column("language", no_wrap=True)
    for system in table.systems:
        shown.add_column(title_of(system), justify="right", max_width=13)
    shown.add_column("n", justify="right")
    for code in table.languages:
        items = max(cell.num_items for cell in table.cells[code].values())
        shown.add_row(_starred(table, code), *(_cell(table, code, name) for name in table.systems), str(items))
    shown.add_section()
    shown.add_row("[bold]mean[/bold]", *(_mean(table, name) for name in table.systems), "")
    return shown


def _by_system(table: Table, width: int) -> RichTable:
    """A row a system, the mean first, then as many languages as `width` has room for."""
    titles = [title_of(system) for system in table.systems]
    title_width = min(max(map(len, titles)), width // 3)
    room = max(0, (width - title_width - len("| mean |")) // len(" deu_Latn* |"))
    codes = table.languages[:room]
    caption = _caption(table)
    if hidden := len(table.languages) - len(codes):
        caption += f"; {hidden} more languages in report.html"
    shown = RichTable(caption=caption)
    shown.add_column("system", max_width=title_width)
    shown.add_column("mean", justify="right", no_wrap=True)
    for code in codes:
        shown.add_column(_starred(table, code), justify="right", no_wrap=True)
    for system, title in zip(table.systems, titles, strict=True):
        shown.add_row(title, _mean(table, system), *(_cell(table, code, system) for code in codes))
    return shown


def _starred(table: Table, code: str) -> str:
    return f"{code}{'*' if code in table.starred else ''}"


def _cell(table: Table, code: str, system: str) -> str:
    row = table.cells[code]
    return _text(row[system].accuracy, table.best(code), system) if system in row else ""


def _mean(table: Table, system: str) -> str:
    return _text(table.mean(system), table.mean(table.best_mean() or ""), system)


def _caption(table: Table) -> str:
    parts = [f"accuracy; mean over {len(table.mean_languages)} languages, without English"]
    if table.starred:
        parts.append("* read with another language's tag: not in the mean")
    return "; ".join(parts)


def _text(value: float, best: float, system: str) -> str:
    if np.isnan(value):
        return ""
    return f"[bold]{value:.3f}[/bold]" if value == best and competes(system) else f"{value:.3f}"


def _as_json(table: Table) -> dict:
    return {
        "task": table.task,
        "systems": list(table.systems),
        "starred": sorted(table.starred),
        "mean_languages": list(table.mean_languages),
        "languages": {code: {name: asdict(cell) for name, cell in row.items()} for code, row in table.cells.items()},
    }
