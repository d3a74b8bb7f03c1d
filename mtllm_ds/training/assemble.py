"""From settings to a running trainer: every part of a run is built here, in order, and closed on every way out."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO

import torch
from rich.console import Console

from mtllm_ds import atomic
from mtllm_ds.checkpoint.store import checkpoint_root, load_kept, restore_checkpoint, set_aside
from mtllm_ds.cluster.agree import from_main, sum_over_ranks, together, wait_for_all
from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.cluster.watch import Phase, Watch
from mtllm_ds.cluster.whole import all_parameters
from mtllm_ds.cluster.zero import TrainableState, full_numel, partitioned_loading
from mtllm_ds.config.load import to_yaml
from mtllm_ds.config.schema import Settings
from mtllm_ds.data.stream.stream import EvalStream, TrainStream
from mtllm_ds.errors import UserError
from mtllm_ds.models.build import arrange_reader, build_reader
from mtllm_ds.models.checks import pooling_line, quantization_line
from mtllm_ds.models.compiled import compile_layers
from mtllm_ds.models.int8_linear import num_more_weights
from mtllm_ds.models.readers import Reader
from mtllm_ds.objectives.base import Objective, Parts, build_objective
from mtllm_ds.objectives.validation import evaluate_objective
from mtllm_ds.observe.profiler import ProfileRequest, StepProfiler
from mtllm_ds.observe.sinks import JsonlSink, LastingSink, ScreenSink, Sink, TensorBoardSink, read_rows
from mtllm_ds.observe.teachers import knowledge_of, knowledge_table
from mtllm_ds.preflight.hub_models import held
from mtllm_ds.preflight.output_folder import cannot_be_written
from mtllm_ds.preflight.paired import pairing_line
from mtllm_ds.preflight.plan import RunPlan
from mtllm_ds.preflight.resume import Resume, check_whole_run, find_checkpoint, open_checkpoint, require_fit_folder
from mtllm_ds.preflight.whole import arrange_whole, memory_of
from mtllm_ds.teachers.bank import load_bank
from mtllm_ds.teachers.base import Teacher
from mtllm_ds.teachers.beside import teacher_beside
from mtllm_ds.training.engine import Engine
from mtllm_ds.training.history import History
from mtllm_ds.training.loop import Trainer
from mtllm_ds.training.meter import Meter, peak_for
from mtllm_ds.training.preemption import EXIT_PREEMPTED, Preemption
from mtllm_ds.training.run_lock import hold_folder
from mtllm_ds.training.saving import Saver
from mtllm_ds.training.students import kept_head, kept_tensors, start_reader

EVAL_BATCH_SIZE = 16
_WATCH = ".watch"
"""Folder below the run's, where watchers of ranks meet when something is wrong."""


def run_training(settings: Settings, cluster: Cluster, resume: Resume, profile: ProfileRequest | None = None) -> int:
    """Run a recipe to its end: 0, or `EXIT_PREEMPTED` when it was asked to stop and saved."""
    console = Console(quiet=not cluster.is_main)
    trainer = open_run(settings, cluster, resume, console, profile)
    try:
        finished = trainer.run()
        trainer.finish()
        root = checkpoint_root(settings)
        console.print(
            f"finished {settings.run.max_steps} steps; checkpoints in {root}"
            if finished
            else f"stopped by request, saved in {root}; go on with --resume",
            highlight=False,
            soft_wrap=True,
        )
        if cluster.is_main and finished:
            _say_knowledge(_metrics(settings), console)
        # A launcher ends all ranks as soon as one has left with a status: leave only after all is written.
        wait_for_all()
    except Exception as error:
        trainer.watch.note_failure(error)
        raise
    finally:
        trainer.close()
    return 0 if finished else EXIT_PREEMPTED


def open_run(
    settings: Settings, cluster: Cluster, resume: Resume, console: Console, profile: ProfileRequest | None = None
) -> Trainer:
    """Build every part of a run and, with `resume`, put it where its newest checkpoint left it."""
    with ExitStack() as on_failure:
        # First of all: one that is asked to stop while it loads its models takes a step, saves, and says so by its status.
        preemption = Preemption()
        on_failure.callback(preemption.close)
        trainer = _open_run(settings, cluster, resume, console, profile, preemption, on_failure)
        on_failure.pop_all()
    return trainer


def _open_run(
    settings: Settings,
    cluster: Cluster,
    resume: Resume,
    console: Console,
    profile: ProfileRequest | None,
    preemption: Preemption,
    on_failure: ExitStack,
) -> Trainer:
    device = cluster.device
    folder = Path(settings.run.output_dir)
    root = checkpoint_root(settings)
    newest, damaged, lines = from_main(lambda: find_checkpoint(root, resume), device)
    for line in lines:
        console.print(f"warning: {line}", highlight=False, markup=False, soft_wrap=True)
    found = None if newest is None else together(lambda: open_checkpoint(root, newest), device)
    state = None if found is None else found[1]
    if profile is not None:
        together(lambda: profile.check(0 if state is None else state.step, settings.run.max_steps), device)
    plan = together(lambda: check_whole_run(settings, cluster.world_size, state), device)
    # Rank 0's word: what fails on one rank alone, as for want of memory, must not part the ranks' collectives.
    plan = replace(plan, pairing=from_main(lambda: plan.pairing, device))
    lock = together(lambda: _take_folder(folder, damaged) if cluster.is_main else None, device)
    from_main(lambda: require_fit_folder(root, state), device)
    watch = together(lambda: _start_watch(settings, on_failure), device)
    if not watch.is_watched:
        line = "no watcher beside this rank, for want of process handles (Linux 5.3): collective time-outs alone end a hang"
        console.print(f"warning: {line}", highlight=False, markup=False, soft_wrap=True)
    plan = together(lambda: held(plan), device)
    settings = plan.settings
    stream = together(lambda: _train_stream(plan, cluster, found[1].cursor if found else None), device)
    assert stream.micro_batches_per_step == plan.micro_batches_per_step

    with partitioned_loading(plan.ds_config):
        reader = together(lambda: build_reader(settings, device), device)
    kept = together(lambda: load_kept(found[0]), device) if found is not None else None
    start_reader(reader, plan, cluster, kept)
    arrange_reader(reader, settings)
    if settings.training.compile:
        together(lambda: compile_layers(reader.trained_model, device), device)
    teacher = together(lambda: teacher_beside(settings, reader, plan.task, plan.pairing), device)
    objective = together(lambda: _objective(plan, reader, teacher, kept, device), device)
    kept = kept_tensors(objective, plan, kept)
    device_bytes = from_main(lambda: memory_of(device, cluster.world_size), device)
    whole = together(lambda: arrange_whole(objective, settings, plan.ds_config, device, device_bytes), device)
    engine = Engine(objective.train(), settings, plan.ds_config)
    start_step = 0
    if found is not None:
        restore_checkpoint(found[0], found[1], TrainableState(engine.deepspeed))
        start_step = found[1].step
    peak = peak_for(settings, device)
    told = [] if peak is None else [f"MFU is of {peak.flops / 1e12:,.1f} TFLOP/s per rank: {peak.source}"]
    _say(console, plan, reader, objective, start_step, [*whole.lines(), *told])

    def tell(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    def warn(line: str) -> None:
        console.print(f"WARNING: {line}", style="bold red", highlight=False, markup=False, soft_wrap=True)

    return Trainer(
        settings=settings,
        cluster=cluster,
        engine=engine,
        objective=objective,
        stream=stream,
        validate=_validator(plan, cluster, engine, objective),
        languages=plan.train.languages,
        bases=plan.bases,
        task=plan.task,
        chat=plan.train.chat,
        saver=Saver(settings, cluster, kept, warn),
        meter=Meter(cluster, peak),
        profiler=StepProfiler(profile, folder, cluster.rank, device, tell),
        sinks=together(lambda: _sinks(settings, cluster, start_step, console), device),
        preemption=preemption,
        watch=watch,
        warn=warn,
        teacher=teacher,
        start_step=start_step,
        history=History(**found[1].history) if found is not None else History(),
        newest_figures=found[1].metrics if found is not None else {},
        lock=lock,
    )


def _take_folder(folder: Path, damaged: Iterable[int]) -> IO[str]:
    """Hold a run folder and clear it of what killed runs left half done, and of the damaged checkpoints of these steps."""
    lock = hold_folder(folder)
    for place in (folder, folder / "checkpoints"):
        atomic.remove_leftovers(place)
    shutil.rmtree(folder / _WATCH, ignore_errors=True)
    for step in damaged:
        set_aside(folder / "checkpoints", step)
    return lock


def _start_watch(settings: Settings, on_failure: ExitStack) -> Watch:
    try:
        watch = Watch(Path(settings.run.output_dir) / _WATCH, _limits(settings))
    except OSError as error:
        raise UserError(
            f"{socket.gethostname()}: no watcher can be started beside a rank ({error.strerror or error}); make room for its "
            "process (memory, ulimit -u)"
        ) from error
    on_failure.callback(watch.close)
    return watch


def _limits(settings: Settings) -> dict[Phase, float | None]:
    """How long a rank may stay in each phase, in seconds."""
    failures = settings.failures
    of_steps: dict[Phase, float | None] = dict.fromkeys(("data", "prepare", "step", "log"), failures.step_seconds)
    return {
        **of_steps,
        "start": failures.start_seconds,
        "validation": failures.validation_seconds,
        "save": failures.save_seconds,
    }


def _train_stream(plan: RunPlan, cluster: Cluster, cursor: dict | None) -> TrainStream:
    data = plan.settings.data
    return TrainStream(
        plan.train,
        data,
        rank=cluster.rank,
        world_size=cluster.world_size,
        num_workers=data.num_workers,
        on_error=data.on_error,
        max_skipped_share=data.max_skipped_share,
        seed=plan.settings.run.seed,
        cursor=cursor,
        targets=plan.train_targets,
    )


def _objective(
    plan: RunPlan,
    reader: Reader,
    teacher: Teacher | None,
    kept: Mapping[str, torch.Tensor] | None,
    device: torch.device,
) -> Objective:
    parts = Parts(
        settings=plan.settings,
        student=reader,
        teacher=teacher,
        bank=load_bank(plan.settings, device),
        num_languages=max(len(m.languages) for m in (plan.train, plan.validation) if m is not None),
        task=plan.task,
        chat=plan.train.chat,
        head=kept_head(kept or {}) or plan.teacher_head,
    )
    return build_objective(parts)


def _validator(
    plan: RunPlan, cluster: Cluster, engine: Engine, objective: Objective
) -> Callable[[Callable[[], bool]], dict[str, float] | None] | None:
    if plan.validation is None:
        return None
    manifest, data = plan.validation, plan.settings.data

    def stream() -> EvalStream:
        return EvalStream(
            manifest,
            rank=cluster.rank,
            world_size=cluster.world_size,
            batch_size=EVAL_BATCH_SIZE,
            limit=data.validation_samples,
            on_error=data.on_error,
            max_skipped_share=data.max_skipped_share,
            targets=plan.validation_targets,
        )

    def validate(asked_to_stop: Callable[[], bool]) -> dict[str, float] | None:
        batches = together(stream, cluster.device)
        figures = evaluate_objective(
            objective, engine.forward, batches, cluster.device, manifest.languages, asked_to_stop
        )
        if data.on_error == "skip" and figures is not None:
            skipped = torch.tensor(float(batches.skipped_samples), device=cluster.device)
            figures["skipped_samples"] = lost = float(sum_over_ranks(skipped))
            together(lambda: batches.check_lost(int(lost)), cluster.device)
        return figures

    return validate


def _sinks(settings: Settings, cluster: Cluster, start_step: int, console: Console) -> list[Sink]:
    if not cluster.is_main:
        return []
    folder = Path(settings.run.output_dir)
    try:
        atomic.write_text(folder / "config.yaml", to_yaml(settings))
        sinks: list[Sink] = [JsonlSink(_metrics(settings), start_step)]
        if settings.run.tensorboard:
            sinks.append(TensorBoardSink(folder / "tensorboard", start_step))
    except OSError as error:
        raise cannot_be_written(folder, error) from error
    return [*(LastingSink(sink, console) for sink in sinks), ScreenSink(settings.run.max_steps, start_step, console)]


def _say_knowledge(metrics: Path, console: Console) -> None:
    """What teachers know; of a log that cannot be read a warning, since the run itself is whole."""
    try:
        known = knowledge_of(read_rows(metrics))
    except OSError as error:
        line = f"warning: {metrics} cannot be read ({error}): no table of what teachers know"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
        return
    if known is not None:
        console.print(knowledge_table(known))


def _metrics(settings: Settings) -> Path:
    return Path(settings.run.output_dir) / "metrics.jsonl"


def _say(
    console: Console, plan: RunPlan, reader: Reader, objective: Objective, start_step: int, more: Iterable[str]
) -> None:
    settings = plan.settings
    for line in (
        *plan.dialogue,
        *(f"warning: {line}" for line in plan.warnings),
        *plan.teachers,
        *quantization_line(settings.model),
        *pooling_line(settings.model),
        *pairing_line(plan.pairing),
        *more,
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    trainable = sum(full_numel(p) for p in objective.parameters() if p.requires_grad)
    frozen = sum(full_numel(p) for p in all_parameters(objective) if not p.requires_grad)
    frozen += num_more_weights(objective)
    bidirectional = settings.model.reader == "encoder" or settings.model.given_llm.bidirectional
    attention = {model.config._attn_implementation for model in reader.running_models}
    console.print(
        f"{'resuming at' if start_step else 'starting at'} step {start_step} on {plan.world_size} ranks; "
        f"{trainable:,} parameters train, {frozen:,} are frozen; {settings.training.precision}, "
        f"{'bidirectional' if bidirectional else 'causal'} attention by {' and '.join(sorted(attention))}; "
        f"{plan.train.num_samples:,} samples, {plan.micro_batches_per_step} forwards per step and rank",
        highlight=False,
        soft_wrap=True,
    )
