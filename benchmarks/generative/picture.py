"""The picture of a run: readings by language, and the divergence over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.generative.verdict import Scores, nll_of
from mtllm_ds.evaluation.generation.evaluation import READINGS
from mtllm_ds.evaluation.report.pictures import figure_of, png_of

_MARKS = {
    "model": ("#d9541e", "o"),
    "shuffled": ("#f0a07c", "x"),
    "llm": ("#2b6cb0", "^"),
    "none": ("#9aa5b1", "s"),
    "english": ("#2f6f4f", "|"),
}


def draw(scores: Scores, curve: Mapping[str, Sequence[tuple[float, float]]]) -> bytes:
    """PNG."""
    figure = figure_of(12.0, max(3.5, 1.6 + 0.38 * len(scores)))
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    for name, (colour, marker) in _MARKS.items():
        places = [nll_of(own[name]) for own in scores.values()]
        left.plot(places, range(len(scores)), marker, color=colour, label=READINGS[name], markersize=8)
    left.set_yticks(range(len(scores)), list(scores), fontsize=9)
    left.invert_yaxis()
    left.set_xlabel("nats per token of the English answer")
    for name, colour in (("train", "#9aa5b1"), ("validation", "#d9541e")):
        if curve[name]:
            right.plot(*zip(*curve[name], strict=True), color=colour, label=name)
    right.set_xlabel("step")
    right.set_ylabel("divergence, nats per token")
    right.set_ylim(bottom=0)
    right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=5, frameon=False, fontsize=9)
    return png_of(figure)
