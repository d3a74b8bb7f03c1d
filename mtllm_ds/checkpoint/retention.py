"""Which checkpoints stay: the newest few, those of every so many steps, and the best by validation."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mtllm_ds import atomic
from mtllm_ds.checkpoint.store import checkpoint_folders
from mtllm_ds.errors import UserError

BEST = "best.json"


def best_step(root: Path) -> int | None:
    """Step of the best checkpoint that still exists, or None."""
    step = _record(root).get("step")
    return step if step in checkpoint_folders(root) else None


def is_better(root: Path, figure: str, figures: Mapping[str, float], better: Literal["lower", "higher"]) -> bool:
    """Whether figures beat those of the best checkpoint in `figure`; one that is not finite never does, and is always beaten, as is
    one that was picked by another figure."""
    value, record = figures[figure], _record(root)
    if (
        best_step(root) is None
        or record["figure"] != figure
        or not math.isfinite(value)
        or not math.isfinite(record["value"])
    ):
        return math.isfinite(value)
    return value < record["value"] if better == "lower" else value > record["value"]


def note_best(root: Path, step: int, figure: str, value: float) -> None:
    """Record that the checkpoint of `step` is the best so far by a figure; called by the main rank."""
    atomic.write_json(root / BEST, {"step": step, "figure": figure, "value": value})


def _record(root: Path) -> dict[str, Any]:
    """What `best.json` says; empty where there is none.

    Raises:
        UserError: it is damaged.
    """
    path = root / BEST
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {"step": int(content["step"]), "figure": str(content["figure"]), "value": float(content["value"])}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path}: damaged ({type(error).__name__}); remove it: the newest checkpoint then counts as the best so far"
        ) from error


def drop_old(root: Path, keep: int, keep_every: int | None = None) -> None:
    """Remove all but the newest `keep` checkpoints, the best, and those of every `keep_every` steps; called by the main rank."""
    folders = checkpoint_folders(root)
    kept = {
        *list(folders)[-keep:],
        best_step(root),
        *(step for step in folders if keep_every and step % keep_every == 0),
    }
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
