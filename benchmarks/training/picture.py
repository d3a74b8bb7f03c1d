"""The picture of a size: seconds of a step, a bar a variant, and where ours go."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from mtllm_ds.evaluation.report.pictures import FAINT, INK, figure_of, png_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from benchmarks.training.measured import Measured

_NARROW = 0.085
"""Share of a step below which a label stands upright"""
_OURS, _OTHERS = "#d9541e", "#9aa5b1"
_SHADES = ("#f0a07c", "#9cc3e6", "#b8d8b0", "#e3cf8f", "#c9b6dd", "#cbd2d9", "#efb9b9", "#a9d5d0")


def draw_size(name: str, found: Mapping[str, Measured], titles: Mapping[str, str], where: Mapping[str, Any]) -> bytes:
    """PNG: medians as bars, their intervals as strokes; below them our step by part and by kind of operator."""
    figure = figure_of(8.0, 3.4 + 0.5 * len(found))
    above, below = figure.subplots(2, 1, height_ratios=(len(found), 3))
    _draw_rounds(above, name, found, titles)
    _draw_shares(below, {kind: where[kind] for kind in ("parts", "kinds")}, where["step"])
    return png_of(figure)


def _draw_shares(axes: Axes, kinds: Mapping[str, Mapping[str, float]], step: float) -> None:
    for place, seconds in enumerate(kinds.values()):
        left = 0.0
        for number, (name, own) in enumerate(sorted(seconds.items(), key=lambda one: -one[1])):
            share = own / step
            axes.barh(place, share, left=left, color=_SHADES[number % len(_SHADES)], edgecolor="white", height=0.7)
            if share > 0.03:
                turned = share < _NARROW
                label = f"{name} {share:.0%}" if turned else f"{fill(name, max(8, int(90 * share)))}\n{share:.0%}"
                axes.text(
                    left + share / 2, place, label, ha="center", va="center", fontsize=6.5, color=INK,
                    rotation=90 if turned else 0,
                )  # fmt: skip
            left += share
    axes.set_yticks(
        range(len(kinds)), [f"our step by {kind.removesuffix('s')}" for kind in kinds], fontsize=9, color=INK
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_rounds(axes: Axes, name: str, found: Mapping[str, Measured], titles: Mapping[str, str]) -> None:
    ends = [float(np.nanmax([one.seconds.mean, _finite(one.seconds.high)])) for one in found.values()]
    for place, (variant, one) in enumerate(found.items()):
        axes.barh(place, one.seconds.mean, color=_OURS if variant == "ours" else _OTHERS, height=0.6)
        if np.isfinite([one.seconds.low, one.seconds.high]).all():
            axes.hlines(place, one.seconds.low, one.seconds.high, color=INK, linewidth=2)
        label = f"{one.seconds.mean:.2f} s, {one.documents_per_second:.1f} documents/s"
        axes.text(ends[place] + 0.015 * max(ends), place, label, va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(found)), [titles.get(variant, variant) for variant in found], fontsize=9, color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.4 * max(ends))
    axes.set_xlabel(f"seconds per step ({name})", color=INK)
    axes.grid(axis="x", color=FAINT, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _finite(seconds: float) -> float:
    return seconds if np.isfinite(seconds) else float("nan")
