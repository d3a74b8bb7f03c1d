"""The picture of a run: what the main rows make of text of people, and what every row gains and loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.sdrrl.collect import Scores
from benchmarks.sdrrl.rows import BY_NAME, UNTOUCHED
from mtllm_ds.evaluation.report.pictures import figure_of, png_of
from mtllm_ds.languages import ENGLISH

_COLOURS = ("#9aa5b1", "#d9541e", "#2b6cb0", "#7b5ea7", "#2f6f4f")


def draw(scores: Mapping[str, Scores], languages: Sequence[str]) -> bytes:
    """PNG."""
    figure = figure_of(12.0, 4.6)
    left, right = figure.subplots(1, 2)
    main = [name for name in scores if BY_NAME[name].is_main]
    codes = [*languages, ENGLISH]
    for place, name in enumerate(main):
        heights = [scores[name].nll[code]["continuation"].means.mean() for code in codes]
        places = np.arange(len(codes)) + 0.16 * (place - len(main) / 2)
        left.bar(places, heights, 0.15, color=_COLOURS[place], label=BY_NAME[name].title)
    left.set_xticks(range(len(codes)), codes)
    left.set_ylabel("nats per token of continuations by people")
    left.legend(frameon=False, fontsize=7.5)
    for name, own in scores.items():
        gain = np.mean([_relative(own, scores[UNTOUCHED], code) for code in languages])
        loss = _relative(own, scores[UNTOUCHED], ENGLISH)
        colour = _COLOURS[main.index(name)] if name in main else "#5c6773"
        right.plot(gain, loss, "o" if name in main else "x", color=colour)
        right.annotate(name, (gain, loss), fontsize=7, xytext=(3, 3), textcoords="offset points")
    right.axhline(2, color="#b3362b", linewidth=0.8, linestyle="--")
    right.set_xlabel("nats in the languages learnt, % against the untouched model")
    right.set_ylabel("nats in English, %")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return png_of(figure)


def _relative(own: Scores, base: Scores, code: str) -> float:
    """Per cent by which nats per token of continuations differ."""
    ours, theirs = (float(one.nll[code]["continuation"].means.mean()) for one in (own, base))
    return 100 * (ours / theirs - 1)
