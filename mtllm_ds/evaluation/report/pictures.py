"""Pictures of a report, as PNG bytes: accuracies a language, and differences with their confidence intervals."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtllm_ds.evaluation.report.parts import Comparison
from mtllm_ds.evaluation.report.tables import CEILING, FLOOR, Table

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


STYLES = {
    "tfidf": ("#b59f3b", "s"),
    "ridge": ("#7b5ea7", "D"),
    "mt_encoder": ("#3f9c95", "p"),
    "translate_test": ("#2b6cb0", "^"),
    "translate_test_greedy": ("#2b6cb0", "^"),
    "translate_test_beam4": ("#12406f", "v"),
    "translate_test_tuned": ("#63a6e8", ">"),
    "mtllm_direct": ("#f0a07c", "o"),
    "mtllm_stage2": ("#d9541e", "o"),
}
"""Colour and marker of the systems that are drawn besides floor and ceiling; others take what is left."""
SPARE = (("#5c6773", "X"), ("#c05a8c", "<"), ("#4c8c4a", ">"), ("#8a6d3b", "h"))
MAX_DRAWN = 8
INK, FAINT = "#1f2933", "#e3e7eb"


def draw_tables(tables: Sequence[Table], titles: Mapping[str, str], settings: Mapping[str, str]) -> bytes:
    """A row per language: the bar runs from the LLM's own reading to the English originals, markers are the systems."""
    languages = list(dict.fromkeys(code for table in tables for code in table.languages))
    starred = frozenset().union(*(table.starred for table in tables))
    figure = figure_of(1.6 + 5.6 * len(tables), 1.9 + 0.36 * (len(languages) + 1))
    panels = figure.subplots(1, len(tables), sharex=True, squeeze=False)[0]
    for axes, table in zip(panels, tables, strict=True):
        drawn = _drawn(table)
        for height, code in enumerate((*languages, None)):
            _draw_row(axes, table, code, height, drawn)
        labels = [f"{code}{'*' if code in starred else ''}" for code in languages]
        axes.set_yticks(range(len(labels) + 1), [*labels, "mean"], fontsize=9, color=INK)
        axes.get_yticklabels()[-1].set_fontweight("bold")
        axes.axhline(len(labels) - 0.5, color=FAINT, linewidth=1)
        axes.set_ylim(len(labels) + 0.5, -0.7)
        axes.set_xlabel("accuracy", color=INK)
        axes.set_title(
            settings.get(table.setting, table.setting), loc="left", fontsize=11, fontweight="bold", color=INK
        )
        _plain_axes(axes)
    handles: dict[str, Artist] = {}
    for axes in panels:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    names = [titles.get(name, name) for name in handles]
    figure.legend(
        list(handles.values()), names, loc="outside upper left", ncols=4, frameon=False, fontsize=9, handletextpad=0.4
    )
    return png_of(figure)


def _draw_row(axes: Axes, table: Table, code: str | None, height: int, drawn: Mapping[str, tuple[str, str]]) -> None:
    """One language, or the means for None."""

    def value(system: str) -> float | None:
        if code is None:
            mean = table.mean(system)
            return None if mean != mean else mean
        cell = table.cells.get(code, {}).get(system)
        return None if cell is None else cell.accuracy

    floor, ceiling = value(FLOOR), value(CEILING)
    if floor is not None and ceiling is not None:
        axes.plot([floor, ceiling], [height, height], color=FAINT, linewidth=7, solid_capstyle="round", zorder=1)
    for system, colour in ((FLOOR, "#9aa5b1"), (CEILING, "#2f6f4f")):
        place = value(system)
        if place is not None:
            axes.plot(
                place, height, marker="|", markersize=12, markeredgewidth=2.5, color=colour, linestyle="", label=system
            )
    for system, (colour, marker) in drawn.items():
        place = value(system)
        if place is not None:
            axes.plot(
                place, height, marker=marker, markersize=7.5, color=colour, markeredgecolor="white", linestyle="",
                label=system, zorder=4 if system == "mtllm_stage2" else 3,
            )  # fmt: skip


def _drawn(table: Table) -> dict[str, tuple[str, str]]:
    """At most `MAX_DRAWN` systems with colour and marker, those of `STYLES` first."""
    others = [name for name in table.systems if name not in (FLOOR, CEILING)]
    chosen = sorted(others, key=lambda name: name not in STYLES)[:MAX_DRAWN]
    spare = iter(SPARE * MAX_DRAWN)
    return {name: STYLES[name] if name in STYLES else next(spare) for name in others if name in chosen}


def draw_differences(
    comparisons: Sequence[Comparison], titles: Mapping[str, str], settings: Mapping[str, str]
) -> bytes:
    """A panel a comparison: differences in points with 95% intervals, the joint one last."""
    shown = [comparison for comparison in comparisons if comparison.languages]
    rows = max(len(comparison.languages) for comparison in shown)
    figure = figure_of(1.6 + 5.6 * len(shown), 1.6 + 0.34 * (rows + 1))
    panels = figure.subplots(1, len(shown), sharex=True, squeeze=False)[0]
    for axes, comparison in zip(panels, shown, strict=True):
        entries = [(code, difference) for code, (difference, _) in comparison.languages.items()]
        entries.append(("all", comparison.overall))
        for height, (code, difference) in enumerate(entries):
            colour = "#2f6f4f" if difference.low > 0 else "#b3362b" if difference.high < 0 else "#7b8794"
            wide = 3.2 if code == "all" else 1.8
            axes.plot([100 * difference.low, 100 * difference.high], [height] * 2, color=colour, linewidth=wide)
            axes.plot(100 * difference.mean, height, "o", color=colour, markersize=8 if code == "all" else 5.5)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.axhline(len(entries) - 1.5, color=FAINT, linewidth=1)
        axes.set_yticks(range(len(entries)), [code for code, _ in entries], fontsize=9, color=INK)
        axes.get_yticklabels()[-1].set_fontweight("bold")
        axes.set_ylim(len(entries) - 0.4, -0.6)
        axes.set_xlabel("points of accuracy", color=INK)
        first, second = (titles.get(name, name) for name in (comparison.first, comparison.second))
        setting = settings.get(comparison.setting, comparison.setting)
        axes.set_title(f"{first} minus {second}\n{setting.lower()}", loc="left", fontsize=10, color=INK)
        _plain_axes(axes)
    return png_of(figure)


def write_image(path: Path, image: bytes) -> None:
    """Write a picture whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(image)
    os.replace(temporary, path)


def figure_of(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, min(height, 100.0)), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _plain_axes(axes: Axes) -> None:
    axes.grid(axis="x", color=FAINT, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#cbd2d9")
    axes.tick_params(length=0, labelsize=9)


def png_of(figure: Figure) -> bytes:
    """The bytes of its PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
