"""The picture of a run: what the LLM knows in English, and right answers by language."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.facts.choosing import CHANCE, Choice
from benchmarks.intervals import Interval
from mtllm_ds.evaluation.report.pictures import figure_of, png_of

_READERS = {"llm": ("LLM itself", "#2b6cb0", "^"), "stack": ("stack", "#d9541e", "o")}
_HALVES = {"choosing": "#9aa5b1", "reporting": "#2f6f4f"}


def draw(
    choices: Mapping[str, Choice],
    known: Mapping[str, tuple[int, Interval]],
    means: Mapping[str, Mapping[str, float]],
) -> bytes:
    """PNG."""
    languages = list(dict.fromkeys(code for by in means.values() for code in by))
    figure = figure_of(11.0, max(3.5, 1.6 + 0.36 * max(len(choices), len(languages))))
    left, right = figure.subplots(1, 2)
    for place, (half, colour) in enumerate(_HALVES.items()):
        shares = [choice.share if half == "choosing" else known[kind][1] for kind, choice in choices.items()]
        left.errorbar(
            [share.mean for share in shares],
            [height + 0.24 * place - 0.12 for height in range(len(shares))],
            xerr=[[share.mean - share.low for share in shares], [share.high - share.mean for share in shares]],
            fmt="o", color=colour, capsize=3, label=f"{half} half",
        )  # fmt: skip
    left.set_yticks(range(len(choices)), list(choices), fontsize=9)
    left.legend(frameon=False, fontsize=9)
    for who, by in means.items():
        title, colour, marker = _READERS[who]
        right.plot(
            list(by.values()), [languages.index(code) for code in by], marker, color=colour, label=title, markersize=8
        )
    right.set_yticks(range(len(languages)), languages, fontsize=9)
    if languages:
        right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel("right answers")
        axes.axvline(CHANCE, color="#b3362b", linewidth=1)
        axes.spines[["top", "right"]].set_visible(False)
    return png_of(figure)
