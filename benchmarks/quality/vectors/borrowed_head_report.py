"""Shows what `borrowed_head` found: figures, a picture, and a table with example queries on the terminal."""

from __future__ import annotations

import math
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.quality.vectors.borrowed_head import KNOWN_RETRIEVAL, foreign, gap_closed, unknown_languages
from mtllm_ds.atomic import write_figures, write_json
from mtllm_ds.languages import ENGLISH

COLUMNS = {
    "llm": "LLM reads it itself",
    "ridge": "ridge from the MT encoder",
    "mtllm": "MT-LLM (stacked)",
    "originals": "English originals",
}
COLOURS = {"llm": "#b9bfc7", "ridge": "#8fb3d9", "mtllm": "#d9622b", "originals": "#2f6f4f"}


def write_report(result: dict, folder: Path, title: str, console: Console | None = None) -> None:
    """Write `table.json`, `table.png`, `examples.json` and `summary.json` (all figures, flat) into `folder` and print the table;
    `result` is what `borrowed_head` returned."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "table.json", result["languages"])
    write_json(folder / "examples.json", result["examples"])
    write_figures(folder / "summary.json", flat_figures(result))
    draw_table(result, folder / "table.png", title)
    print_table(result, title, console or Console())


def flat_figures(result: dict) -> dict[str, float]:
    """Every figure of a result by name, those of a language as in `deu_Latn/mtllm`."""
    of_all = {name: result[name] for name in ("chance", "fvu", "ridge_fvu", "gap_closed")}
    return of_all | {
        f"{code}/{name}": value for code, row in result["languages"].items() for name, value in row.items()
    }


def print_table(result: dict, title: str, console: Console) -> None:
    """The table, the figures that judge it, and the example queries with their nearest English texts."""
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False
    )  # 80 columns hold it
    table.add_column("language", no_wrap=True)
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right", max_width=13)
    for heading in ("gap closed", "retrieval", "n"):
        table.add_column(heading, justify="right")
    languages, others = result["languages"], foreign(result["languages"])
    unknown = unknown_languages(others)
    for code, row in languages.items():
        scores = [f"{row[name]:.3f}" for name in COLUMNS]
        if row["mtllm"] > row["llm"]:
            scores[list(COLUMNS).index("mtllm")] = f"[bold]{row['mtllm']:.3f}[/bold]"
        closed = gap_closed({code: row}) if code != ENGLISH else math.nan
        shown = "-" if math.isnan(closed) else f"{closed:.0%}"
        table.add_row(code + "*" * (code in unknown), *scores, shown, f"{row['retrieval']:.3f}", str(row["n"]))
    table.add_section()
    table.add_row(
        f"mean of {len(others)}", *(f"{_mean(others, name):.3f}" for name in COLUMNS), f"{result['gap_closed']:.0%}"
    )
    console.print(table)
    console.print(
        f"Accuracy of one head, fitted on the LLM's vectors of English only (chance {result['chance']:.3f}).\n"
        f"Distance from the LLM's own reading to the English originals that is closed: {result['gap_closed']:.0%}.\n"
        f"English original found among the others: LLM itself {_mean(others, 'llm_retrieval'):.3f}, ridge "
        f"{_mean(others, 'ridge_retrieval'):.3f}, stacked {_mean(others, 'retrieval'):.3f} (means).\n"
        f"Held-out FVU {result['fvu']:.3f} (ridge {result['ridge_fvu']:.3f}); the ridge is fitted on all texts of stage 1.",
        highlight=False,
    )
    if unknown:
        console.print(_about_unknown(others, unknown), highlight=False)
    for example in result["examples"]:
        console.print(f"\n[bold]{example['language']}[/bold]  {_cut(example['query'])}", highlight=False)
        for place, found in enumerate(example["nearest"], 1):
            mark = " [green](its original)[/green]" if found["text"] == example["original"] else ""
            console.print(f"   {place}. {found['cosine']:+.2f}  {_cut(found['text'])}{mark}", highlight=False)


def _mean(rows: dict[str, dict], column: str) -> float:
    return sum(row[column] for row in rows.values()) / len(rows)


def _about_unknown(rows: dict[str, dict], unknown: list[str]) -> str:
    """Says what the star means, and the figure without such languages; the means above have them."""
    known = {code: row for code, row in rows.items() if code not in unknown}
    found = ", ".join(f"{code} {rows[code]['encoder_retrieval']:.0%}" for code in unknown)
    without = f"\nDistance that is closed without them: {gap_closed(known):.0%}." if known else ""
    return (
        f"* Not known to the encoder, which finds fewer than {KNOWN_RETRIEVAL:.0%} of their English originals alone, copied "
        f"names left out: {found}.{without}"
    )


def draw_table(result: dict, path: Path, title: str) -> None:
    """Grouped bars a language, the chance level as a dotted line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    languages = result["languages"]
    figure = Figure(figsize=(1.9 + 1.35 * len(languages), 4.6), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.8 / len(COLUMNS)
    for k, (name, heading) in enumerate(COLUMNS.items()):
        places = [i + (k - (len(COLUMNS) - 1) / 2) * width for i in range(len(languages))]
        heights = [row[name] for row in languages.values()]
        axes.bar(places, heights, width * 0.92, color=COLOURS[name], label=heading, zorder=2)
        for x, height in zip(places, heights, strict=True):
            axes.text(x, height + 0.008, f"{height:.2f}"[1:], ha="center", fontsize=7.5, color="#333333")
    axes.axhline(result["chance"], color="#555555", linestyle=":", linewidth=1, label="chance", zorder=3)
    unknown = unknown_languages(foreign(languages))
    axes.set_xticks(range(len(languages)), [code + "*" * (code in unknown) for code in languages])
    axes.set_ylabel("accuracy of the borrowed head")
    axes.set_ylim(0, 1.18 * max(row[name] for row in languages.values() for name in COLUMNS))
    axes.grid(axis="y", color="#e4e4e4", zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", pad=12)
    axes.legend(
        ncols=len(COLUMNS) + 1, frameon=False, fontsize=8, loc="upper left", columnspacing=1.2, handlelength=1.2
    )
    figure.tight_layout()
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png")
    temporary.replace(path)


def _cut(text: str, length: int = 100) -> str:
    """One line of at most `length` characters, safe to print in rich markup."""
    line = " ".join(text.split())
    return (line if len(line) <= length else line[: length - 1] + "…").replace("[", r"\[")
