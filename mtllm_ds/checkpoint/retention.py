"""Which checkpoints stay: the newest few, and the best by validation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from mtllm_ds import atomic
from mtllm_ds.checkpoint.store import checkpoint_folders

BEST = "best.json"


def best_step(root: Path) -> int | None:
    """Step of the best checkpoint that still exists, or None."""
    path = root / BEST
    if not path.is_file():
        return None
    step = int(json.loads(path.read_text(encoding="utf-8"))["step"])
    return step if step in checkpoint_folders(root) else None


def is_better(root: Path, figure: str, figures: Mapping[str, float], better: Literal["lower", "higher"]) -> bool:
    """Whether validation figures beat those of the best checkpoint in `figure`."""
    if best_step(root) is None:
        return True
    value, best = figures[figure], float(json.loads((root / BEST).read_text(encoding="utf-8"))["value"])
    return value < best if better == "lower" else value > best


def note_best(root: Path, step: int, figure: str, value: float) -> None:
    """Record that the checkpoint of `step` is the best so far by a figure; called by the main rank."""
    atomic.write_json(root / BEST, {"step": step, "figure": figure, "value": value})


def drop_old(root: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints and the best one; called by the main rank."""
    folders = checkpoint_folders(root)
    kept = {*list(folders)[-keep:], best_step(root)}
    for step, folder in folders.items():
        if step not in kept:
            shutil.rmtree(folder)


def folder_to_use(root: Path) -> Path | None:
    """The best checkpoint, or the newest where none was validated."""
    folders = checkpoint_folders(root)
    if not folders:
        return None
    best = best_step(root)
    return folders[best if best is not None else max(folders)]
