"""The plot of a run: nats per token of every student, a place a language."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.balanced.collect import Scores
from benchmarks.balanced.students import STUDENTS
from benchmarks.balanced.verdict import nll_of, unigram_of
from mtllm_ds.evaluation.report.pictures import figure_of, png_of

_MARKS = {
    "plain": ("#5c6773", "s"),
    "balanced": ("#9aa5b1", "D"),
    "taught": ("#63a6e8", "^"),
    "balanced_taught": ("#d9541e", "o"),
    "few_line_teachers": ("#f0a07c", "o"),
    "extra_steps": ("#2f6f4f", "v"),
}


def draw_students(scores: Scores, groups: Mapping[str, tuple[str, ...]]) -> bytes:
    """PNG: one mark a student and language, mean of the seeds; a stroke from the lowest to the highest seed."""
    languages = [*groups["high"], *groups["low"]]
    figure = figure_of(max(8.0, 2.4 + 1.05 * len(languages)), 5.0)
    axes = figure.subplots()
    for place, code in enumerate(languages):
        unigram = unigram_of(scores["plain"][code])
        label = "" if place else "unigram model"
        axes.plot([place - 0.42, place + 0.42], [unigram, unigram], color="#cbd2d9", linewidth=5, label=label)
    for number, student in enumerate(STUDENTS):
        colour, marker = _MARKS[student.name]
        places = np.arange(len(languages)) + 0.13 * (number - (len(STUDENTS) - 1) / 2)
        nlls = np.stack([nll_of(scores[student.name][code]) for code in languages])
        axes.vlines(places, nlls.min(1), nlls.max(1), color=colour, linewidth=1.2)
        axes.plot(places, nlls.mean(1), marker, color=colour, label=student.title, markersize=6)
    border = len(groups["high"]) - 0.5
    axes.axvline(border, color="#1f2933", linewidth=0.8)
    for shift, side, title in ((-0.08, "right", "much text"), (0.08, "left", "little text")):
        axes.text(border + shift, 0.99, title, ha=side, va="top", fontsize=9, transform=axes.get_xaxis_transform())
    axes.set_xticks(range(len(languages)), languages, fontsize=9)
    axes.set_ylabel("nats per masked token")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    return png_of(figure)
