"""May this run go on from that checkpoint? Which settings may change in between, and which may not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic_core import to_jsonable_python

from mtllm_ds import atomic
from mtllm_ds.checkpoint.retention import best_step
from mtllm_ds.checkpoint.store import (
    STATE,
    CheckpointState,
    checkpoint_folders,
    checkpoint_root,
    folder_of_step,
    owes_validation,
    read_state,
)
from mtllm_ds.config.load import parse_saved
from mtllm_ds.config.schema import Sections, Settings
from mtllm_ds.config.section import difference, fixed_fields
from mtllm_ds.config.seeds import seed_runs
from mtllm_ds.data.stream.schedule import check_cursor
from mtllm_ds.errors import DamagedCheckpointError, UserError
from mtllm_ds.models.loading import is_same_model
from mtllm_ds.preflight.dropout import regrouped
from mtllm_ds.preflight.hub_models import as_started
from mtllm_ds.preflight.plan import RunPlan, check_run

_WITH_EFFECT = {
    "optim": "steps from here on differ from those that it would have made",
    "objective.select_by": "the best checkpoint is picked anew from here on, whatever was the best so far",
    "failures.on_loss_spike": "what becomes of a spike of the loss changes from here on",
    "failures.spike_window": "what counts as a spike of the loss changes from here on",
    "failures.spike_factor": "what counts as a spike of the loss changes from here on",
    "run.validate_at_start": "the model is validated before the first step alone, which is made",
    "run.max_steps": "the learning rate falls on another line from here on",
    "data.validation": "figures of validation before and after cannot be compared, the best checkpoint's among them",
    "data.validation_samples": "figures of validation before and after cannot be compared, the best checkpoint's among them",
    "data.on_error": "what becomes of damaged blocks changes from here on",
}
"""What may change on resume, but not without a word."""


Resume: TypeAlias = bool | Literal["auto"]
"""`--resume`; "auto" goes on from the newest whole checkpoint, and begins where there is none yet."""


class Newest(NamedTuple):
    """Which checkpoint a run goes on from: told by one rank, since a folder may look different from other machines for a moment."""

    step: int
    state_sha256: str
    """Of its `state.json`, which holds those of its other files"""


class Found(NamedTuple):
    """Where a run goes on."""

    newest: Newest | None
    """None: it begins"""
    damaged: Sequence[int] = ()
    """Steps of newer checkpoints that were passed over"""
    lines: Sequence[str] = ()
    """What there is to say about it"""


def newest_checkpoint(root: Path) -> Newest:
    """The newest checkpoint below `root`; `UserError` when there is none."""
    folders = checkpoint_folders(root)
    if not folders:
        raise UserError(f"--resume: no checkpoint in {root}; start without --resume")
    step = max(folders)
    return Newest(step, atomic.sha256_file(folders[step] / STATE))


def find_checkpoint(root: Path, resume: Resume) -> Found:
    """Which checkpoint a run goes on from."""
    if resume == "auto":
        return newest_whole_checkpoint(root)
    return Found(newest_checkpoint(root) if resume else None)


def newest_whole_checkpoint(root: Path) -> Found:
    """For `--resume auto`: the newest checkpoint that is whole.

    Raises:
        UserError: there are checkpoints, and none is whole: such a run does not start from scratch by itself; or the newest is of
            another format, which is no damage.
    """
    damaged: list[int] = []
    lines: list[str] = []
    for step, folder in reversed(checkpoint_folders(root).items()):
        try:
            read_state(folder)
        except DamagedCheckpointError as error:
            damaged.append(step)
            lines.append(f"--resume auto: {error}; it is passed over and put aside")
        else:
            return Found(Newest(step, atomic.sha256_file(folder / STATE)), damaged, lines)
    if damaged:
        raise UserError(
            f"--resume auto: all {len(damaged)} checkpoints in {root} are damaged; bring one back, or start anew in another "
            "run.output_dir"
        )
    return Found(None, lines=[f"--resume auto: no checkpoint in {root} yet: the run starts from its beginning"])


def open_checkpoint(root: Path, newest: Newest) -> tuple[Path, CheckpointState]:
    """That checkpoint, read and found whole; `UserError` also where this machine sees none or another one."""
    folder = folder_of_step(root, newest.step)
    if not (folder / STATE).is_file():
        raise UserError(
            f"--resume: rank 0 goes on from {folder}, which another machine does not see; wait until it does, or put "
            "run.output_dir where all machines see the same files"
        )
    if atomic.sha256_file(folder / STATE) != newest.state_sha256:
        raise UserError(
            f"--resume: {folder} differs between machines; put run.output_dir where all machines see the same files"
        )
    return folder, read_state(folder)


def runs_to_make(settings: Settings, resume: Resume) -> list[tuple[Settings, Resume]]:
    """The runs of a command that are not finished, and whether each goes on from a checkpoint of its own."""
    runs = seed_runs(settings)
    if settings.run.seeds is None:
        return [(runs[0], resume)]
    roots = [checkpoint_root(run) for run in runs]
    steps = [max(checkpoint_folders(root), default=None) for root in roots]
    # The first seeds may be finished and the last not begun: a seed without a checkpoint starts afresh.
    return [
        (run, resume if done is not None else False)
        for run, root, done in zip(runs, roots, steps, strict=True)
        if not (resume and done == run.run.max_steps and not _owes_validation(folder_of_step(root, done)))
    ]


def _owes_validation(folder: Path) -> bool:
    try:
        return owes_validation(folder)
    except DamagedCheckpointError:
        return True  # the run itself says so, or passes it over


def check_whole_run(
    settings: Settings, world_size: int, resumed: CheckpointState | None, *, read_all_shards: bool = False
) -> RunPlan:
    """`check_run`, and of a run that goes on whether it is still the same; what else has changed is among the warnings."""
    if resumed is None:
        return check_run(settings, world_size, read_all_shards=read_all_shards)
    settings = as_started(settings, resumed)
    plan = check_run(settings, world_size, read_all_shards=read_all_shards, resumed=resumed)
    before = require_same_run(settings, plan.bases, resumed)
    check_cursor(resumed.cursor, plan.train, settings.data, settings.run.seed)
    changed = [*changed_on_the_way(settings, before), *regrouped(settings, before)]
    return replace(plan, warnings=[*plan.warnings, *changed])


def require_fit_folder(root: Path, resumed: CheckpointState | None, damaged: Collection[int] = ()) -> None:
    """A fresh run overwrites no older one, nobody has gone on with the one that is resumed, and the best is known.

    It holds for good once the folder is held. Those of the steps `damaged` do not count.
    """
    best_step(root)
    newest = max(set(checkpoint_folders(root)) - set(damaged), default=None)
    if resumed is None and newest is not None:
        raise UserError(
            f"run.output_dir={root.parent}: holds a run of {newest} steps; add --resume to go on with it, or choose another folder"
        )
    if resumed is not None and newest != resumed.step:
        raise UserError(
            f"run.output_dir={root.parent}: another process has just gone on with this run to step {newest}; start again"
        )


def require_same_run(settings: Settings, bases: dict[str, dict[str, str | None]], state: CheckpointState) -> Sections:
    """Refuse to go on with settings or base models that would make it another run; returns the settings it was saved with."""
    saved = parse_saved(state.settings, where="--resume")
    for fixed in fixed_fields(Settings):
        if changed := difference(_setting(saved, fixed), _setting(settings, fixed), fixed):
            key, before, after = changed[0], *map(to_jsonable_python, changed[1:])
            raise UserError(
                f"--resume: {key}={after!r}, but the run was started with {before!r}; "
                "put it back or start a new run in another run.output_dir"
            )
    if settings.run.max_steps < state.step:
        raise UserError(
            f"--resume: run.max_steps={settings.run.max_steps}, but the run has made {state.step} steps; raise it, or leave "
            "--resume out and choose another run.output_dir"
        )
    bank = settings.objective.bank
    taught_by = {f"teacher_of.{language}" for language in (bank.models if bank is not None else ())}
    for base_name, base in bases.items():
        if base_name not in {*settings.model.sides, *taught_by}:
            continue
        key = f"objective.{base_name}" if base_name in taught_by else f"model.{base_name}.name"
        before = state.bases[base_name]
        is_same = is_same_model(str(base["name"]), str(base["fingerprint"]), before)
        if is_same is None:
            raise UserError(
                f"--resume: {key}={base['name']} cannot be compared with what the run was started with ({before['name']}, "
                f"{before['fingerprint']}), as no hash of a hub model's weights is known here; name that one again"
            )
        if not is_same:
            raise UserError(
                f"--resume: {key}={base['name']} holds other weights than the run was started with "
                f"({base['fingerprint']} instead of {before['fingerprint']}); put those back or start a new run"
            )
    return saved


def changed_on_the_way(settings: Settings, before: Sections) -> list[str]:
    """Said where a run goes on with other settings than it had `before`, of those that change what comes of it, a line each."""
    now, then = settings.model_dump(mode="json"), before.model_dump(mode="json")
    found = []
    for key, effect in _WITH_EFFECT.items():
        for name in [f"{key}.{field}" for field in _at(now, key)] if isinstance(_at(now, key), dict) else [key]:
            if _at(now, name) != _at(then, name):
                found.append(f"--resume: {name}={_at(now, name)!r}, but the run had {_at(then, name)!r}: {effect}")
    return found


def _setting(settings: Sections, dotted: str) -> Any:
    """A setting by its name; None below a section that is not there."""
    value: Any = settings
    for part in dotted.split("."):
        value = getattr(value, part, None)
    return value


def _at(values: dict[str, Any], dotted: str) -> Any:
    node: Any = values
    for part in dotted.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node
