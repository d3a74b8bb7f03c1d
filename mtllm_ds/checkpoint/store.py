"""Checkpoints by parameter name: any number of ranks can take up what any other number saved.

A checkpoint is a folder `step_00000050/` that appears whole (written beside, then renamed):

    trainable.safetensors   fp32 master of every trainable parameter, under its own name
    moments.safetensors     Adam's `exp_avg/<name>` and `exp_avg_sq/<name>`
    kept.safetensors        what is frozen and in no base model (a frozen connector, head or first LoRA, weights of a base model
                            that `model.start` trained); left out if empty
    state.json              format, step, data cursor, settings, versions, base models, sha256 of the files and of itself
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mtllm_ds import atomic
from mtllm_ds.cluster.agree import together, wait_for_all
from mtllm_ds.cluster.zero import MASTER, MOMENTS, TrainableState
from mtllm_ds.config.schema import Settings
from mtllm_ds.errors import DamagedCheckpointError, UserError
from mtllm_ds.weight_names import own_name

FORMAT = 1
TRAINABLE = "trainable.safetensors"
OPTIMIZER = "moments.safetensors"
KEPT = "kept.safetensors"
STATE = "state.json"
_FOLDER = re.compile(r"step_(\d{8})$")


@dataclass(frozen=True)
class CheckpointState:
    """What a checkpoint says beside its tensors."""

    step: int
    """Optimizer steps made."""
    num_updates: int
    """Adam's own count of updates."""
    cursor: dict[str, Any]
    """Where the stream of data goes on."""
    settings: dict[str, Any]
    """The settings of the run, as plain values."""
    bases: dict[str, dict[str, str | None]]
    """Name, revision and fingerprint of the frozen base models, and of the hub's a hash of their weights."""
    metrics: dict[str, float]
    """The newest validation figures."""
    task: dict[str, Any] | None = None
    """Name, type and labels of the task, where the run has a head."""
    chat: dict[str, Any] | None = None
    """How the dialogues that the run trains on are put into words, where it has some."""
    history: dict[str, Any] = field(default_factory=dict)
    """What has befallen the run, as far as it decides what comes next; empty in checkpoints of before there was any."""


@dataclass(frozen=True)
class CheckpointTensors:
    """All fp32 tensors of a checkpoint, whole, on the CPU."""

    masters: dict[str, torch.Tensor]
    moments: dict[str, torch.Tensor]


def checkpoint_root(settings: Settings) -> Path:
    """Folder of a run's checkpoints."""
    return Path(settings.run.output_dir) / "checkpoints"


def checkpoint_folders(root: Path) -> dict[int, Path]:
    """Complete checkpoints below `root`, by step."""
    found = {int(match[1]): path for path in root.glob("step_*") if (match := _FOLDER.search(path.name))}
    return {step: found[step] for step in sorted(found) if (found[step] / STATE).is_file()}


def folder_of_step(root: Path, step: int) -> Path:
    """Where the checkpoint of a step stands, or would."""
    return root / f"step_{step:08d}"


def gather_tensors(trainable: TrainableState, is_main: bool) -> CheckpointTensors:
    """What a checkpoint holds of the trainable parameters; called by all ranks, kept by the main one alone."""
    masters: dict[str, torch.Tensor] = {}
    moments: dict[str, torch.Tensor] = {}
    for name in trainable.parameters:
        # Gathering is collective; only the main rank keeps the result.
        full = {key: trainable.get(name, key) for key in (MASTER, *MOMENTS)}
        if is_main:
            masters[name] = full[MASTER]
            moments.update({f"{key}/{name}": full[key] for key in MOMENTS})
    return CheckpointTensors(masters, moments)


def read_state(folder: Path) -> CheckpointState:
    """State of a checkpoint whose files are whole; `DamagedCheckpointError`, or `UserError` for one of another format."""
    content = _read_content(folder)
    for name, digest in content["files"].items():
        if not (folder / name).is_file():
            raise _damaged(folder, name, "missing")
        if atomic.sha256_file(folder / name) != digest:
            raise _damaged(folder, name, "its bytes are not those that were written")
    return CheckpointState(**{name: content[name] for name in CheckpointState.__dataclass_fields__ if name in content})


def owes_validation(folder: Path) -> bool:
    """Whether the run was stopped in the validation of this checkpoint's step; its other files are not looked at."""
    return bool(_read_content(folder).get("history", {}).get("validation_due"))


def amend_state(folder: Path, **changes: Any) -> None:
    """Write what has come to be known of a checkpoint after it was made into its state; called by the main rank.

    Raises:
        OSError: it cannot be written, and stays as it was.
    """
    content = {**_read_content(folder), **changes}
    atomic.write_json(folder / STATE, {**content, "sha256": _digest(content)})


def _read_content(folder: Path) -> dict[str, Any]:
    """What `state.json` says, whole and of our format."""
    try:
        content = json.loads((folder / STATE).read_text(encoding="utf-8"))
        found = content.get("format")
        if isinstance(found, int) and found != FORMAT:  # before the digest: it may be another's too
            raise UserError(
                f"checkpoint {folder}: format {found}, this version reads {FORMAT}; "
                "use the version of mtllm-ds that wrote it"
            )
        stated = content.pop("sha256")
    except UserError:
        raise
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise _damaged(folder, STATE, str(error)) from error
    if _digest(content) != stated or found != FORMAT:
        raise _damaged(folder, STATE, "its bytes are not those that were written")
    return content


def load_trainable(folder: Path) -> dict[str, torch.Tensor]:
    """fp32 tensors of all trainable parameters, by name."""
    return _load(folder, TRAINABLE)


def load_kept(folder: Path) -> dict[str, torch.Tensor]:
    """The frozen tensors of no base model, by name; empty where there are none."""
    return _load(folder, KEPT) if (folder / KEPT).is_file() else {}


def restore_checkpoint(folder: Path, state: CheckpointState, trainable: TrainableState) -> None:
    """Put masters and moments back into the engine's shards; called by all ranks."""

    def read() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, str]]:
        masters, moments = _load(folder, TRAINABLE), _load(folder, OPTIMIZER)
        # Earlier versions put other prefixes before a model's own names.
        saved = {own_name(name): name for name in masters}
        _require_same_names(folder, set(saved), {own_name(name) for name in trainable.parameters})
        return masters, moments, saved

    masters, moments, saved = together(read, next(iter(trainable.parameters.values())).device)
    trainable.begin(state.num_updates)
    for name in trainable.parameters:
        saved_name = saved[own_name(name)]
        trainable.set(name, MASTER, masters[saved_name])
        for key in MOMENTS:
            trainable.set(name, key, moments[f"{key}/{saved_name}"])
    wait_for_all()


def write_checkpoint(
    root: Path, state: CheckpointState, tensors: CheckpointTensors, kept: dict[str, torch.Tensor]
) -> None:
    """Write one checkpoint; called by the main rank. `kept` are the frozen tensors of no base model.

    Raises:
        OSError: a full disk, a read-only one, and the like; nothing of it is left.
    """
    folder = folder_of_step(root, state.step)
    contents = {TRAINABLE: tensors.masters, OPTIMIZER: tensors.moments, **({KEPT: kept} if kept else {})}
    try:
        with atomic.new_folder(folder) as temporary:
            for name, content_tensors in contents.items():
                save_file(content_tensors, temporary / name)
            files = {name: atomic.sha256_file(temporary / name) for name in contents}
            content = {"format": FORMAT, **vars(state), "versions": _versions(), "files": files}
            atomic.write_json(temporary / STATE, {**content, "sha256": _digest(content)})
    except SafetensorError as error:
        raise OSError(str(error)) from error


def set_aside(root: Path, step: int) -> None:
    """Take a damaged checkpoint out of the row, for who wants to look at it; called by the main rank, which holds the folder."""
    place = root / f"damaged_{step:08d}"
    shutil.rmtree(place, ignore_errors=True)
    os.replace(folder_of_step(root, step), place)


def _load(folder: Path, name: str) -> dict[str, torch.Tensor]:
    try:
        return load_file(folder / name)
    except (OSError, SafetensorError) as error:
        raise _damaged(folder, name, str(error)) from error


def _require_same_names(folder: Path, saved: set[str], wanted: set[str]) -> None:
    if saved != wanted:
        example = sorted(saved ^ wanted)[0]
        raise UserError(
            f"checkpoint {folder}: its trainable parameters differ from the model's (first: {example}); "
            "resume with the settings it was saved with"
        )


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _damaged(folder: Path, name: str, why: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(
        f"checkpoint {folder}: {name} is damaged ({' '.join(why.split())}); "
        "remove that folder to resume from the one before it"
    )


def _versions() -> dict[str, str]:
    names = ("mtllm-ds", "torch", "deepspeed", "transformers", "peft", "safetensors")
    return {**{name: version(name) for name in names}, **({"commit": commit} if (commit := git_commit()) else {})}


@functools.cache
def git_commit() -> str:
    """Commit of the code that runs, with a `+` where files of it are changed; empty where it is no checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--exclude=*",
        "--abbrev=40",
        "--dirty=+",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
