"""A picture of where the time of profiled steps goes."""

from __future__ import annotations

import io
import os

from mtllm_ds.observe.profile_parts import StepSeconds

_COLOURS = {"device": "#3f9c95", "host": "#6b7b8c"}


def draw_parts(seconds: StepSeconds, title: str) -> bytes:
    """Bars of each part, the longest first, as a PNG: of the GPU where there is one, and of the loop's thread."""
    os.environ.setdefault("MPLBACKEND", "agg")
    from matplotlib.figure import Figure

    sides = {"device": seconds.device, "host": seconds.host} if seconds.device else {"host": seconds.host}
    figure = Figure(figsize=(5.5 * len(sides), 4), layout="constrained")
    for axes, (side, parts) in zip(figure.subplots(1, len(sides), squeeze=False)[0], sides.items(), strict=True):
        names = sorted(parts, key=lambda name: parts[name])
        bars = axes.barh(names, [1e3 * parts[name] for name in names], color=_COLOURS[side])
        axes.bar_label(
            bars, [f"{_milliseconds(parts[name])}  {parts[name] / seconds.step:.0%}" for name in names], padding=3
        )
        axes.set_xlabel(f"milliseconds per step, mean of {seconds.num_steps}")
        axes.set_title(_heading(seconds, side), fontsize="medium")
        axes.margins(x=0.35)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
    return picture.getvalue()


def _heading(seconds: StepSeconds, side: str) -> str:
    if side == "host" or seconds.idle is None or seconds.exposed_communication is None:
        return f"the loop's thread: {_milliseconds(seconds.step)} per step"
    idle, exposed = _milliseconds(seconds.idle), _milliseconds(seconds.exposed_communication)
    return f"the GPU's work; idle {idle}, collectives alone {exposed}"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.3g} ms"
