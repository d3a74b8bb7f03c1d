"""`mtllm-ds list`: what ships and can be called by name, each with the first line of its file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtllm_ds.command_line import Parser
from mtllm_ds.config.shipped import DEEPSPEED_FILES, RECIPES, TASKS, Kind

USES = {RECIPES: "--recipe NAME", TASKS: "--task NAME", DEEPSPEED_FILES: "training.deepspeed=NAME"}


def main(arguments: Sequence[str]) -> int:
    """Print the names."""
    Parser(prog="mtllm-ds list", description="Recipes, tasks and DeepSpeed files that ship.").parse_args(arguments)
    width = max(len(name) for kind in USES for name in kind.names)
    for kind, use in USES.items():
        print(f"{kind.what}s: {use}, below {kind.path('').parent}")
        print("".join(f"  {name:{width}}  {described(kind, name)}\n" for name in kind.names))
    return 0


def described(kind: Kind, name: str) -> str:
    """One line about a file: the comment it begins with, or of JSON, which knows none, what it asks of ZeRO."""
    path = kind.path(name)
    if kind is DEEPSPEED_FILES:
        return _zero(path)
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("#").strip()


def _zero(path: Path) -> str:
    zero: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["zero_optimization"]
    parts = [f"ZeRO stage {zero['stage']}"]
    if "zero_hpz_partition_size" in zero:
        parts.append(f"weights whole within each {zero['zero_hpz_partition_size']} ranks (ZeRO++ hpZ)")
    for key, what in (("offload_param", "parameters"), ("offload_optimizer", "optimizer")):
        if key in zero:
            parts.append(f"{what} on the {zero[key]['device'].upper()}")
    parts.append("collectives beside computation" if zero.get("overlap_comm") else "collectives one after the other")
    return ", ".join(parts)
