"""Which checkpoints stay: the newest few, and the best by validation."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

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


def best_value(root: Path) -> float:
    """Validation loss of the best checkpoint; infinity where there is none yet."""
    if best_step(root) is None:
        return math.inf
    return float(json.loads((root / BEST).read_text(encoding="utf-8"))["value"])


def note_best(root: Path, step: int, value: float) -> None:
    """Record that the checkpoint of `step` is the best so far; called by the main rank."""
    atomic.write_json(root / BEST, {"step": step, "value": value})


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
