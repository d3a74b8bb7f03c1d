"""A plan in words, as JSON, and how it scales as a picture."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mtllm_ds.planning.hardware import Machine
from mtllm_ds.planning.plan import Plan
from mtllm_ds.planning.roofline import crossing_bytes
from mtllm_ds.planning.trace import Trace
from mtllm_ds.preflight.whole import size


def not_measured(machine: Machine) -> str:
    """What a plan's figures rest on."""
    known = "no GPU was measured: neither peak memory nor seconds"
    if machine.slowdown != 1:
        known = "one step was measured, whose network is in its seconds; no peak memory was"
    return (
        "bytes of collectives, weights, masters and moments are exact (tests on two CPU ranks of ZeRO-2 and ZeRO-3); activations "
        f"are those of eager PyTorch on paper; {known}"
    )


def as_json(
    own: Plan, variants: Mapping[str, Plan], scaling: Mapping[str, Sequence[Plan]], said: Mapping[str, Any]
) -> dict[str, Any]:
    """All figures, in bytes and seconds; `said` is what the plan was asked for."""
    trace = own.trace
    return {
        "asked": dict(said),
        "gpu": asdict(own.machine.gpu),
        "assumed": {
            name: value for name, value in asdict(own.machine).items() if name not in ("gpu", "num_nodes", "gpus_per_node")
        },
        "parameters": {"trained": trace.num_trained, "frozen": trace.num_frozen},
        "traffic": [asdict(one) | {"sent_bytes": one.sent_bytes} for one in own.traffic],
        "kept_bytes": asdict(own.kept),
        "plan": _figures(own),
        "variants": {name: _figures(plan) for name, plan in variants.items()},
        "scaling": {name: [_figures(plan) for plan in plans] for name, plans in scaling.items()},
        "not_measured": not_measured(own.machine),
    }  # fmt: skip


def as_text(own: Plan, variants: Mapping[str, Plan], said: Mapping[str, Any], warnings: Sequence[str]) -> str:
    """The plan as tables of plain text."""
    machine, trace, time = own.machine, own.trace, own.time
    gpu, zero = machine.gpu, own.zero
    asked = ", ".join(f"{name} {value}" for name, value in said.items())
    lines = [
        f"plan        {asked}",
        f"machine     {machine.num_nodes} nodes of {machine.gpus_per_node} {gpu.name}; {gpu.source}",
        f"assumed     {machine.compute_utilisation:.0%} of its products and {machine.bandwidth_utilisation:.0%} of its bandwidths "
        f"are reached, {machine.memory_headroom:.0%} of its memory is left free; a hop of a ring takes "
        f"{machine.hop_seconds_within * 1e6:g} us within a node, {machine.hop_seconds_between * 1e6:g} us between nodes",
        *(
            [f"calibrated  operators take {machine.slowdown:.3g} x what that allows, as the measured step says"]
            if machine.slowdown != 1
            else []
        ),
        f"model       {trace.num_trained:,} parameters train, {trace.num_frozen:,} are frozen{_in_int8(trace)}; "
        f"ZeRO stage {zero.stage}",
        f"batch       {own.samples_per_step:,} samples per step; a rank makes {own.micro_batches} forwards of "
        f"{own.cells_in_forward} cells",
        "",
        "memory of one GPU",
        *(f"  {name:18}{size(num_bytes):>12}" for name, num_bytes in own.memory.items()),
        f"  {'together':18}{size(own.memory_bytes):>12}   of {size(gpu.memory_bytes)}{'' if own.fits else ': DOES NOT FIT'}",
        *([f"  {'on the host':18}{size(own.kept.on_cpu):>12}"] if own.kept.on_cpu else []),
        "",
        "sent in a step by one rank",
        *(
            f"  {one.kind.replace('_', '-'):15}{one.what:32}{size(one.sent_bytes):>12} in {one.num_calls:,} calls of "
            f"{one.num_ranks} ranks"
            for one in own.traffic
        ),
        *([] if own.traffic else ["  nothing: one rank"]),
        "",
        "a step",
        *(f"  {name:38}{seconds:9.3f} s" for name, seconds in _seconds(own).items()),
        f"  {'together':38}{time.step:9.3f} s   {own.samples_per_second:,.0f} samples/s; bottleneck: {time.bottleneck}",
        "",
        "what would change",
        _HEADER,
        _row("as it is", own, own),
        *(_row(name, plan, own) for name, plan in variants.items()),
        *own.whole.lines(),
        *layout_line(own, variants),
        "",
        *(f"warning     {line}" for line in warnings),
        f"note        {not_measured(machine)}",
    ]
    return "\n".join(lines)


def layout_line(own: Plan, variants: Mapping[str, Plan]) -> Iterator[str]:
    """Said where all weights fit a device whole, and ZeRO-2, which gathers none of them, sends less."""
    whole = variants.get("ZeRO-2")
    if whole is not None and whole.fits and whole.sent_bytes < own.sent_bytes:
        yield (
            f"layout      all weights fit a device whole: with training.deepspeed=zero2 a rank sends {size(whole.sent_bytes)} in a "
            f"step and not {size(own.sent_bytes)}, and holds {size(whole.memory_bytes)} and not {size(own.memory_bytes)}"
        )


def draw_scaling(scaling: Mapping[str, Sequence[Plan]], title: str) -> bytes:
    """Seconds of a step as it is, and samples a second of all layouts, from 8 to 4,096 GPUs, as PNG."""
    os.environ.setdefault("MPLBACKEND", "agg")
    from matplotlib.figure import Figure

    own = scaling["as it is"]
    gpus = [plan.machine.num_ranks for plan in own]
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, (colour, pick) in _CURVES.items():
        seconds = [pick(plan) or float("nan") for plan in own]
        left.plot(gpus, seconds, color=colour, marker="o", markersize=3, label=name)
    left.set_ylabel("seconds of a step")
    ideal = [own[0].samples_per_second * count / gpus[0] for count in gpus]
    right.plot(gpus, ideal, color="#9aa5b1", linestyle="--", label="ideal")
    for (name, plans), (colour, marker) in zip(scaling.items(), _LAYOUTS, strict=False):
        figures = [plan.samples_per_second for plan in plans]
        right.plot(gpus, figures, color=colour, marker=marker, markersize=4, label=name)
    right.set_ylabel("samples a second")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(gpus, [f"{count:,}" for count in gpus], fontsize=7)
        axes.set_xlabel("GPUs, the same work on each")
        axes.grid(color="#e3e7eb", linewidth=0.6)
        axes.legend(fontsize=7, frameon=False)
    known = (
        "no GPU was measured"
        if own[0].machine.slowdown == 1
        else "operators as slow as one measured step, no network measured"
    )
    figure.suptitle(f"{title} (on paper, {known})", fontsize=10)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()


_LAYOUTS = (("#d9541e", "o"), ("#2b6cb0", "s"), ("#4c8c4a", "^"), ("#7b5ea7", "D"))
_CURVES: dict[str, tuple[str, Any]] = {
    "step": ("#1f2933", lambda plan: plan.time.step),
    "GPU": ("#3f9c95", lambda plan: plan.time.device),
    "links within nodes": ("#b59f3b", lambda plan: plan.time.within),
    "network between nodes": ("#2b6cb0", lambda plan: plan.time.between),
    "latency of collectives": ("#c05a8c", lambda plan: plan.time.latency),
}


def _in_int8(trace: Trace) -> str:
    return ", the language model's layers in int8" if trace.num_more_weights else ""


def _seconds(plan: Plan) -> dict[str, float]:
    time = plan.time
    return {
        "matrix products": time.compute,
        "memory traffic of all operators": time.memory,
        "GPU, operator by operator, and update": time.device,
        "collectives: links within nodes": time.within,
        "collectives: network between nodes": time.between,
        "collectives: latency": time.latency,
        **({"to and from the host": time.host} if time.host else {}),
    }


def _row(name: str, plan: Plan, own: Plan) -> str:
    crossing = sum(crossing_bytes(one, plan.machine) for one in plan.traffic)
    return (
        f"  {name:28}{size(plan.memory_bytes):>12}{size(plan.sent_bytes):>13}{size(crossing):>15}{plan.time.step:>9.3f} s"
        f"{plan.samples_per_second:>13,.0f}  {plan.samples_per_second / own.samples_per_second:>5.2f} x  "
        f"{plan.time.bottleneck}{'' if plan.fits else '; DOES NOT FIT'}"
    )


_HEADER = f"  {'':28}{'a GPU holds':>12}{'sends':>13}{'between nodes':>15}{'a step':>11}{'samples/s':>13}"


def _figures(plan: Plan) -> dict[str, Any]:
    return {
        "num_gpus": plan.machine.num_ranks,
        "num_nodes": plan.machine.num_nodes,
        "zero_stage": plan.zero.stage,
        "forwards_per_step": plan.micro_batches,
        "cells_per_forward": plan.cells_in_forward,
        "samples_per_step": plan.samples_per_step,
        "memory_bytes": plan.memory | {"together": plan.memory_bytes},
        "fits": plan.fits,
        "sent_bytes": {
            kind: sum(one.sent_bytes for one in plan.traffic if one.kind == kind)
            for kind in ("all_gather", "reduce_scatter", "all_reduce")
        },
        "crossing_bytes": sum(crossing_bytes(one, plan.machine) for one in plan.traffic),
        "seconds": asdict(plan.time),
        "samples_per_second": plan.samples_per_second,
    }
