"""May this run go on from that checkpoint? Which settings may change in between, and which may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtllm_ds.checkpoint.store import CheckpointState, checkpoint_folders, read_state
from mtllm_ds.config.load import parse_saved
from mtllm_ds.config.schema import Sections, Settings
from mtllm_ds.config.section import fixed_fields
from mtllm_ds.errors import UserError


def checkpoint_to_resume(root: Path, resume: bool) -> tuple[Path, CheckpointState] | None:
    """The newest checkpoint below `root`, read and found whole; None for a fresh run.

    Raises `UserError` when there is nothing to resume, or when a fresh run would overwrite an older one.
    """
    folders = checkpoint_folders(root)
    if not resume:
        if folders:
            raise UserError(
                f"run.output_dir={root.parent}: holds a run of {max(folders)} steps; add --resume to go on with it, "
                "or choose another folder"
            )
        return None
    if not folders:
        raise UserError(f"--resume: no checkpoint in {root}; start without --resume")
    newest = folders[max(folders)]
    return newest, read_state(newest)


def require_same_run(settings: Settings, bases: dict[str, dict[str, str | None]], state: CheckpointState) -> Sections:
    """Refuse to go on with settings or base models that would make it another run; returns the settings it was saved with."""
    saved = parse_saved(state.settings, where="--resume")
    now, then = settings.model_dump(mode="json"), saved.model_dump(mode="json")
    for key in fixed_fields(Settings):
        before, after = _at(then, key), _at(now, key)
        if before != after:
            raise UserError(
                f"--resume: {key}={after!r}, but the run was started with {before!r}; "
                "put it back or start a new run in another run.output_dir"
            )
    for side, base in bases.items():
        if side not in settings.model.sides:
            continue
        trained_on = state.bases[side]["fingerprint"]
        if base["fingerprint"] != trained_on:
            raise UserError(
                f"--resume: model.{side}.name={base['name']} holds other weights than the run was started with "
                f"({base['fingerprint']} instead of {trained_on})"
            )
    return saved


def _at(values: dict[str, Any], dotted: str) -> Any:
    node: Any = values
    for part in dotted.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node
