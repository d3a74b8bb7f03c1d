"""A report as one HTML page that needs nothing else: styles, pictures and the script that sorts tables are inside."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

from mtllm_ds.evaluation.report.parts import Comparison, Picture, Report, Section
from mtllm_ds.evaluation.report.statistics import Difference
from mtllm_ds.evaluation.report.tables import FLOOR, Table, competes

STYLE = """
:root { --ink: #1f2933; --soft: #616e7c; --line: #e3e7eb; --ground: #f6f7f9; --warm: 217, 84, 30; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 10px; }
.soft { color: var(--soft); } .card { background: white; border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px; }
.verdict { margin-top: 20px; border-left: 6px solid #9aa5b1; font-size: 16px; }
.verdict.confirmed { border-left-color: #2f6f4f; } .verdict.not-confirmed { border-left-color: #b3362b; }
.verdict.gate-failed, .verdict.not-judged { border-left-color: #c98a1b; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 12px; margin-top: 20px; }
.tile b { display: block; font-size: 26px; font-variant-numeric: tabular-nums; } .tile { padding: 14px 16px; }
.scroll { overflow-x: auto; padding: 0; } img { max-width: 100%; height: auto; display: block; margin: 0 auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; text-align: right; border-bottom: 1px solid var(--line); }
th { vertical-align: bottom; font-weight: 600; cursor: pointer; background: white; }
th:first-child, td:first-child { text-align: left; }
td.text, th.text { text-align: left; } td.best { font-weight: 700; }
tr.mean td { border-top: 2px solid var(--ink); font-weight: 600; }
tr:last-child td { border-bottom: none; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0; } dt { color: var(--soft); } dd { margin: 0; }
"""
SCRIPT = """
for (const head of document.querySelectorAll("th")) head.addEventListener("click", () => {
  const body = head.closest("table").tBodies[0], column = head.cellIndex;
  const value = row => { const text = row.cells[column].textContent; const n = parseFloat(text); return isNaN(n) ? text : n; };
  const rows = [...body.rows].sort((a, b) => value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0);
  if (head.dataset.down === "1") rows.reverse();
  head.dataset.down = head.dataset.down === "1" ? "" : "1";
  body.append(...rows);
});
"""


def render(report: Report, shown: Sequence[Picture], titles: Mapping[str, str], settings: Mapping[str, str]) -> str:
    """The page; all text is escaped, and no resource is named that is not inside."""
    parts = [f"<h1>{escape(report.title)}</h1>"]
    if report.tables:
        parts.append(f'<div class="soft">Task {escape(_tasks(report.tables))}</div>')
    if report.verdict is not None:
        kind = report.verdict.status.replace(" ", "-")
        parts.append(f'<div class="card verdict {kind}" id="verdict">{escape(report.verdict.line)}</div>')
    parts.append(_tiles(report, titles))
    for picture in shown:
        data = base64.b64encode(picture.png).decode()
        parts.append(f'<h2>{escape(picture.heading)}</h2><div class="card">')
        parts.append(f'<img alt="{escape(picture.caption)}" src="data:image/png;base64,{data}">')
        parts.append(f'<p class="soft">{escape(picture.caption)}</p></div>')
    for table in report.tables:
        parts.append(f"<h2>{escape(settings.get(table.setting, table.setting))}</h2>{_accuracies(table, titles)}")
        parts.append(_means(table, titles))
    if report.comparisons:
        parts.append(f"<h2>Comparisons</h2>{_comparisons(report.comparisons, titles, settings)}")
    if report.costs:
        parts.append(f"<h2>Cost</h2>{_costs(report, titles)}")
    parts += [f"<h2>{escape(section.heading)}</h2>{_section(section)}" for section in report.sections]
    if report.notes:
        parts.append(
            "<h2>Notes</h2><div class='card'>" + "".join(f"<p>{escape(n)}</p>" for n in report.notes) + "</div>"
        )
    if report.facts:
        listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in report.facts.items())
        parts.append(f'<h2>Settings</h2><div class="card"><dl>{listed}</dl></div>')
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(report.title)}</title><style>{STYLE}</style></head>\n<body><main>"
        + "\n".join(part for part in parts if part)
        + f"</main><script>{SCRIPT}</script></body></html>\n"
    )


def _tasks(tables: Sequence[Table]) -> str:
    return ", ".join(dict.fromkeys(table.task for table in tables))


def _tiles(report: Report, titles: Mapping[str, str]) -> str:
    """The best mean of each setting, and the share of the gap that it closes."""
    tiles = []
    for table in report.tables:
        best = table.best_mean()
        if best is None:
            continue
        setting = table.setting.replace("_", "-")
        tiles.append(
            (f"{table.mean(best):.3f}", f"{setting}: {titles.get(best, best)}, mean of {len(table.mean_languages)}")
        )
        if best != FLOOR and not np.isnan(table.gap_closed(best)):
            tiles.append((f"{100 * table.gap_closed(best):.0f}%", f"{setting}: gap closed by {titles.get(best, best)}"))
    if not tiles:
        return ""
    shown = "".join(
        f'<div class="card tile"><b>{escape(n)}</b><span class="soft">{escape(t)}</span></div>' for n, t in tiles
    )
    return f'<div class="tiles">{shown}</div>'


def _accuracies(table: Table, titles: Mapping[str, str]) -> str:
    every = [cell.accuracy for row in table.cells.values() for cell in row.values()]
    low, high = min(every), max(every)
    rows = []
    for code in table.languages:
        row = table.cells[code]
        best = table.best(code)
        cells = [f"<td>{escape(code)}{'*' if code in table.starred else ''}</td>"]
        for name in table.systems:
            if name not in row:
                cells.append("<td></td>")
                continue
            value = row[name].accuracy
            shade = 0.05 + 0.4 * (value - low) / (high - low) if high > low else 0.0
            spread = f" ± {row[name].spread:.3f} over {row[name].num_seeds} seeds" if row[name].num_seeds > 1 else ""
            hint = f"accuracy {value:.4f}{spread}, macro-F1 {row[name].macro_f1:.4f}"
            style = f'style="background: rgba(var(--warm), {shade:.2f})" title="{hint}"'
            cells.append(f"<td {style}{' class=best' if value == best and competes(name) else ''}>{value:.3f}</td>")
        cells.append(f"<td>{max(cell.num_items for cell in row.values())}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    means = "".join(f"<td>{_number(table.mean(name))}</td>" for name in table.systems)
    foot = f"<tfoot><tr class=mean><td>mean of {len(table.mean_languages)}</td>{means}<td></td></tr></tfoot>"
    star = "; * read with another language's tag, not in the mean" if table.starred else ""
    note = f'<p class="soft">Accuracy; the mean is without English{star}. Point at a cell for macro-F1 and spread.</p>'
    return _table(["language", *(titles.get(name, name) for name in table.systems), "n"], rows, foot) + note


def _means(table: Table, titles: Mapping[str, str]) -> str:
    rows = [
        f"<tr><td>{escape(titles.get(name, name))}</td><td>{_number(table.mean(name))}</td><td>{_number(table.mean_macro_f1(name))}"
        f"</td><td>{_percent(table.gap_closed(name))}</td><td>{_percent(table.english_kept(name))}</td></tr>"
        for name in table.systems
    ]
    return _table(["system", "mean accuracy", "mean macro-F1", "gap closed", "English kept"], rows)


def _comparisons(comparisons: Sequence[Comparison], titles: Mapping[str, str], settings: Mapping[str, str]) -> str:
    rows = []
    for entry in comparisons:
        name = f"{titles.get(entry.first, entry.first)} minus {titles.get(entry.second, entry.second)}"
        name = f"{name}, {settings.get(entry.setting, entry.setting).lower()}"
        rows.append(_difference(name, "all", entry.overall, ""))
        for code, (difference, holm) in entry.languages.items():
            rows.append(_difference(name, code, difference, f"{holm:.4f}"))
    return _table(
        ["comparison", "language", "points", "95% interval", "p", "p (Holm)", "items", "groups"], rows, text="language"
    )


def _difference(name: str, code: str, found: Difference, holm: str) -> str:
    interval = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
    return (
        f"<tr><td>{escape(name)}</td><td class=text>{escape(code)}</td><td>{100 * found.mean:+.1f}</td><td>{interval}</td>"
        f"<td>{found.p:.4f}</td><td>{holm}</td><td>{found.num_items}</td><td>{found.num_groups}</td></tr>"
    )


def _costs(report: Report, titles: Mapping[str, str]) -> str:
    rows = [
        f"<tr><td>{escape(titles.get(name, name))}</td><td>{cost.seconds_per_item:.4f}</td>"
        f"<td>{'' if cost.chrf is None else f'{cost.chrf:.1f}'}</td></tr>"
        for name, cost in report.costs.items()
    ]
    return _table(["system", "seconds an item", "chrF of its translations"], rows)


def _section(section: Section) -> str:
    rows = []
    for row in section.rows:
        cells = (
            f"<td{' class=text' if name == section.text_column else ''}>{escape(value)}</td>"
            for name, value in zip(section.columns, row, strict=True)
        )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return _table(section.columns, rows, text=section.text_column)


def _table(headings: Iterable[str], rows: Iterable[str], foot: str = "", text: str = "") -> str:
    """`text` is the heading of a column that holds words, set to the left."""
    head = "".join(f"<th{' class=text' if heading == text else ''}>{escape(heading)}</th>" for heading in headings)
    body = "\n".join(rows)
    return f'<div class="card scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>{foot}</table></div>'


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"


def _percent(value: float) -> str:
    return "" if np.isnan(value) else f"{100 * value:.0f}%"
