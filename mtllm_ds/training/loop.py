"""The loop: load, step, check, log, validate, save."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch

from mtllm_ds.checkpoint.retention import is_better
from mtllm_ds.checkpoint.store import CheckpointState, checkpoint_folders, restore_checkpoint
from mtllm_ds.cluster.agree import any_says, from_main, sum_over_ranks, together, union_over_ranks
from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.cluster.watch import Watch
from mtllm_ds.cluster.zero import TrainableState
from mtllm_ds.config.schema import Settings
from mtllm_ds.data.shards.manifest import ChatEntry, TaskEntry
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.data.stream.stream import StepBatches, TrainStream
from mtllm_ds.draws import seed_of
from mtllm_ds.errors import UserError
from mtllm_ds.objectives.base import Objective, ObjectiveOutput, StepWeights, add_sums, over_ranks, tokens_in
from mtllm_ds.observe.profiler import PROFILES, StepProfiler
from mtllm_ds.observe.sinks import Sink
from mtllm_ds.preflight.resume import newest_checkpoint, open_checkpoint
from mtllm_ds.step_parts import in_part
from mtllm_ds.teachers.base import Teacher
from mtllm_ds.teachers.paired_self import PairedSelf
from mtllm_ds.training.engine import Engine
from mtllm_ds.training.guards import (
    StepFacts,
    require_no_spike,
    require_sound_figures,
    require_sound_step,
    require_way_back,
    watched_gradients,
)
from mtllm_ds.training.history import History
from mtllm_ds.training.meter import Meter
from mtllm_ds.training.preemption import Preemption
from mtllm_ds.training.saving import Best, Saver


@dataclass
class Trainer:
    """Everything a run is made of; `run` trains from `start_step` to the end."""

    settings: Settings
    cluster: Cluster
    engine: Engine
    objective: Objective
    stream: TrainStream
    validate: Callable[[Callable[[], bool]], dict[str, float] | None] | None
    """Figures, or None where the function that it is given said on some rank that the run is asked to stop."""
    languages: Sequence[str]
    bases: dict[str, dict[str, str | None]]
    task: TaskEntry | None
    chat: ChatEntry | None
    saver: Saver
    meter: Meter
    profiler: StepProfiler
    sinks: list[Sink]
    preemption: Preemption
    watch: Watch
    warn: Callable[[str], None]
    """Tells a line on the main rank."""
    teacher: Teacher | None = None
    """That the objective was given."""
    start_step: int = 0
    history: History = field(default_factory=History)
    newest_figures: dict[str, float] = field(default_factory=dict)
    """Of the newest validation before `start_step`."""
    lock: IO[str] | None = None
    """Held by rank 0 until `close`: nobody else trains into the folder."""

    def __post_init__(self) -> None:
        self._dropped: set[int] = set()
        self._sums = self.objective.empty_sums()
        self._eval = dict(self.newest_figures)
        self._started = time.perf_counter()

    def run(self) -> bool:
        """Train; True if the run reached its last step, False if it was asked to stop (and saved)."""
        run, batches, step = self.settings.run, iter(self.stream), self.start_step
        if self.history.validation_due:
            self._validate_late(step)
            if self.history.validation_due:
                return False  # asked to stop again; what is saved says that it is due
        # Not again on resume: the row is kept.
        if run.validate_at_start and not step and self._measure(0) is None:
            self.warn("run.validate_at_start=true: asked to stop on the way; the run goes on without the row of step 0")
        while step < run.max_steps:
            done, last = step + 1, step + 1 == run.max_steps
            self.profiler.begin(done)
            with self.meter.step():
                data = self._next(done, batches)
                learning_rate = self.engine.set_step(step)
                loss = self._take_step(step, data)
            if self.profiler.is_over(done):
                self.watch.enter("save", done)
                with self.meter.pause("profiling"):
                    self.profiler.write()
            if loss is not None and self._spikes(done, loss):
                # The weights of an earlier step, the data behind those that led here.
                step = self._roll_back(done, loss, data.cursor)
                continue
            self.watch.enter("log", done)
            stop = any_says(self.preemption.requested, self.cluster.device)
            if done % run.log_every == 0 or last:
                self._log(done, learning_rate)
            self.watch.started()
            if step == self.start_step:
                self._check_sweep()
            is_best = self._validate(done) if done % run.validate_every == 0 or last else False
            stop = stop or self.history.validation_due
            if done % run.save_every == 0 or is_best or last or stop:
                self._save(done, data.cursor, is_best, must=last or stop)
            if stop and (not last or self.history.validation_due):
                return False
            step = done
        return True

    def finish(self) -> None:
        """Finish what is being saved and write out the log."""
        self.saver.finish()
        while self.sinks:
            self.sinks.pop().close()

    def close(self) -> None:
        """Finish, give back signals and memory, and leave the run folder to others; each of it also where another fails."""
        with ExitStack() as parts:  # the last one comes first
            parts.callback(self.preemption.close)
            if self.lock is not None:
                parts.callback(self.lock.close)
            parts.callback(self.watch.close)
            parts.callback(self.engine.close)
            parts.callback(self.profiler.close)
            parts.callback(self.finish)

    def _next(self, done: int, batches: Iterator[StepBatches]) -> StepBatches:
        """The next step's data, or a stop of all ranks when one of them has none."""
        self.watch.enter("data", done)
        with in_part("data"):
            data = together(lambda: self._wait_for(batches), self.cluster.device)
        if self.settings.data.on_error == "skip":  # what is dropped is bounded over all ranks together
            dropped = union_over_ranks(self.stream.skipped_blocks, self._dropped, self.cluster.device)
            together(lambda: self.stream.note_skipped(dropped), self.cluster.device)
            self._dropped = dropped
        return data

    def _wait_for(self, batches: Iterator[StepBatches]) -> StepBatches:
        with self.meter.waiting():
            return next(batches)

    def _take_step(self, step: int, data: StepBatches) -> float | None:
        """The step's loss over all ranks; None where nobody asks for it, or its update was left out."""
        self.watch.enter("prepare", step + 1)
        device = self.cluster.device
        self.objective.step_seed = seed_of(self.settings.run.seed, step)
        self.objective.step_share = step / self.settings.run.max_steps
        weights = StepWeights(partial(self._preview, step), self.engine.outside_forward, device, data.coming)
        with in_part("prepare"):
            batches = self.objective.prepare(data.micro_batches, weights)
        self.watch.enter("step", step + 1)
        count = torch.tensor(float(sum(self.objective.count(b) for b in batches)), device=device)
        count = sum_over_ranks(count)
        local_loss, sums = torch.zeros((), device=device), self._sums
        for index, batch in enumerate(batches):
            output = self._forward_backward(step, index, batch, count)
            self.engine.step()
            local_loss += output.loss_sum.detach()
            sums = add_sums(sums, output.sums)
            self.meter.took(tokens_in(batch, self.objective.side), batch.host.num_valid)
        facts = StepFacts(
            loss=float(local_loss),
            grad_norm=self.engine.grad_norm(),
            largest_weight=self.engine.largest_weight(),
            applied=self.engine.was_step_applied(),
        )
        failures, history = self.settings.failures, self.history
        left_out = require_sound_step(
            step + 1, facts, device, lambda: self._has_bad_gradient(step, batches, count),
            may_be_left_out=len(history.skipped_steps) < failures.skip_unsound_steps,
        )  # fmt: skip
        if left_out is not None:
            history.skipped_steps = [*history.skipped_steps, step + 1]
            self.warn(
                f"{left_out} ({len(history.skipped_steps)} of failures.skip_unsound_steps={failures.skip_unsound_steps})"
            )
            return None
        self._sums = sums
        return (
            None
            if failures.on_loss_spike == "ignore"
            else float(sum_over_ranks(local_loss.double()) / count.clamp(min=1))
        )

    def _check_sweep(self) -> None:
        """An objective of a user may ask its teacher by itself, which is known once it has: on all ranks alike, as it gathers."""
        if not isinstance(self.teacher, PairedSelf) or self.teacher.was_asked_beside:
            return
        why = (
            f"objective.name={self.settings.objective.name} asks its teacher by itself (vectors, states) and not beside the "
            "student (vectors_beside, states_beside), so that ZeRO-3 gathers each layer three times a step"
        )
        if self.settings.model.paired_sweep is True:
            raise UserError(f"model.paired_sweep=true: has no effect: {why}; ask so, or set it to auto")
        self.warn(f"no teacher beside the student: {why}")

    def _spikes(self, done: int, loss: float) -> bool:
        """Whether the run rolls back for a spike of the loss, on all ranks or on none; told in any case."""
        failures, history = self.settings.failures, self.history
        spikes = any_says(history.is_spike(loss, failures), self.cluster.device)
        if spikes:
            require_no_spike(done, loss, history, failures)
            self._write({"step": done, "loss_spike": loss})
            self.warn(f"step {done}: the loss of {loss:.4g} is a spike")
            if failures.on_loss_spike == "roll_back":
                return True
        history.note_loss(loss, failures)
        return False

    def _roll_back(self, done: int, loss: float, cursor: dict[str, Any]) -> int:
        """Take up the newest checkpoint again; the step that it was made after. The stream stays where it is, at `cursor`, and so
        that a run that is ended goes on there too, the checkpoint learns of it."""
        device, root = self.cluster.device, self.saver.root
        self.watch.enter("save", done)
        self.saver.finish()
        require_way_back(done, loss, from_main(lambda: bool(checkpoint_folders(root)), device))
        newest = from_main(lambda: newest_checkpoint(root), device)
        folder, state = together(lambda: open_checkpoint(root, newest), device)
        restore_checkpoint(folder, state, TrainableState(self.engine.deepspeed))
        self.history.num_roll_backs += 1
        self._sums, self._eval = self.objective.empty_sums(), dict(state.metrics)
        self.saver.note(state.step, cursor=cursor, history=asdict(self.history))
        for sink in self.sinks:
            sink.rewind(state.step)
        self._write({"step": done, "rolled_back_to": state.step})
        self.warn(
            f"rolled back from step {done} to step {state.step} ({self.history.num_roll_backs} of "
            f"failures.max_roll_backs={self.settings.failures.max_roll_backs}): the data of {done - state.step} steps are left out"
        )
        return state.step

    def _forward_backward(self, step: int, index: int, batch: Batch, count: torch.Tensor) -> ObjectiveOutput:
        with self.meter.flops.micro_batch():
            with self._table_of(step) if index == 0 else nullcontext():
                output = self._forward(step, index, batch)
            self.engine.backward(output.loss_sum, count)
        return output

    def _table_of(self, step: int) -> AbstractContextManager[None]:
        """What DeepSpeed's FLOPs profiler says of a step's first forward, in the step that it is asked for."""
        if step + 1 != self.settings.training.flops_profiler_step:
            return nullcontext()
        return self.engine.flops_table(Path(self.settings.run.output_dir) / PROFILES, step + 1, self.warn)

    @torch.no_grad()
    def _preview(self, step: int, index: int, batch: Batch) -> ObjectiveOutput:
        """One of a step's forwards as it will be, weights and draws alike, without gradient."""
        self.objective.count(batch)  # notes on the host what a forward must know, as before the real one
        # Of forwards and backwards in turn DeepSpeed learns the order in which to gather ahead; where each backward follows a
        # preview's forward and another, it would throw away what it learnt in every step.
        alone = self.engine.micro_batches == 1
        with self.engine.outside_forward(()) if alone else nullcontext():
            return self._forward(step, index, batch)

    def _forward(self, step: int, index: int, batch: Batch) -> ObjectiveOutput:
        self._seed_forward(step, index)
        return self.engine.forward(batch.to(self.cluster.device))

    def _has_bad_gradient(self, step: int, batches: Sequence[Batch], count: torch.Tensor) -> bool:
        """Whether this rank's own gradient of a step is not finite. The norm does not tell whose it was: take the step's backward
        once more, with the same draws and, as no update was made, the same weights, and look before ranks are summed up."""
        with watched_gradients(self.objective.parameters(), self.cluster.device) as seen:
            for index, batch in enumerate(batches):
                self._forward_backward(step, index, batch, count)
        return bool(seen)

    def _seed_forward(self, step: int, index: int) -> None:
        """Dropout depends on (seed, step, lanes of the forward) alone, so no generator state needs saving."""
        torch.manual_seed(seed_of(self.settings.run.seed, step, self.stream.first_lanes[index]))

    def _log(self, done: int, learning_rate: float) -> None:
        totals = over_ranks({**self._sums, **self.meter.totals()}, self.cluster.device)
        self._sums = self.objective.empty_sums()
        cost = self.meter.figures(totals)
        for line in self.meter.missing():
            self.warn(line)
        row: dict[str, Any] = {"step": done, **self.objective.summarize(totals, self.languages)}
        row |= {
            "learning_rate": learning_rate,
            "grad_norm": self.engine.grad_norm(),
            **cost,
            "seconds": time.perf_counter() - self._started,
        }
        row["seconds_left"] = row["seconds"] / (done - self.start_step) * (self.settings.run.max_steps - done)
        row |= self.stream.metrics()
        if self.history.skipped_steps:
            row["skipped_steps"] = len(self.history.skipped_steps)
        if self.saver.num_failed:
            row["failed_saves"] = self.saver.num_failed
        self._write(row)

    def _validate(self, done: int) -> bool:
        """Validate, if there is anything to validate on; True if the model was never better. A run that is asked to stop on the way
        owes this validation."""
        self.history.validation_due = False
        if self.validate is None:
            return False
        figures = self._measure(done)
        if figures is None:
            self.history.validation_due = True
            return False
        self._eval = figures
        if self._best_figure not in self._eval:
            raise UserError(
                f"data.validation={self.settings.data.validation}: gave no {self.settings.objective.selected_by}, which picks the "
                "best checkpoint; look at its samples, or set objective.select_by to another figure"
            )
        better = self.settings.objective.figures[self.settings.objective.selected_by]
        # All ranks must take the same branch, and only the main one reads the record before it changes.
        self.saver.finish()
        return from_main(lambda: is_better(self.saver.root, self._best_figure, self._eval, better), self.cluster.device)

    def _validate_late(self, done: int) -> None:
        """The validation in which the run was asked to stop; its checkpoint is there already."""
        is_best = self._validate(done)
        if not self.history.validation_due:
            best = Best(self._best_figure, self._eval[self._best_figure]) if is_best else None
            self.saver.note(done, best, metrics=self._eval, history=asdict(self.history))

    def _measure(self, done: int) -> dict[str, float] | None:
        """Figures of validation, written as a row; None where the run was asked to stop on the way."""
        assert self.validate is not None
        self.watch.enter("validation", done)
        with self.meter.pause("validation"):
            found = self.validate(lambda: self.preemption.requested)
        if found is None:
            return None
        figures = {f"eval_{name}": value for name, value in found.items()}
        self._write({"step": done, **figures})
        require_sound_figures(done, figures)
        return figures

    @property
    def _best_figure(self) -> str:
        return f"eval_{self.settings.objective.selected_by}"

    def _save(self, done: int, cursor: dict[str, Any], is_best: bool, *, must: bool) -> None:
        self.watch.enter("save", done)
        with self.meter.pause("saving"):
            self._write_checkpoint(done, cursor, is_best, must=must)

    def _write_checkpoint(self, done: int, cursor: dict[str, Any], is_best: bool, *, must: bool) -> None:
        trainable = TrainableState(self.engine.deepspeed)
        state = CheckpointState(
            step=done,
            num_updates=trainable.num_updates(),
            cursor=cursor,
            settings=self.settings.model_dump(mode="json"),
            bases=self.bases,
            metrics=self._eval,
            task=None if self.task is None else asdict(self.task),
            chat=None if self.chat is None else asdict(self.chat),
            history=asdict(self.history),
        )
        best = Best(self._best_figure, self._eval[self._best_figure]) if is_best else None
        self.saver.save(state, trainable, best, must=must)

    def _write(self, row: dict[str, Any]) -> None:
        for sink in self.sinks:
            sink.write(row)
