"""The loop: load, step, check, log, validate, save."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import IO, Any

import torch

from mtllm_ds.checkpoint.retention import drop_old, is_better, note_best
from mtllm_ds.checkpoint.store import CheckpointState, checkpoint_root, save_checkpoint
from mtllm_ds.cluster.agree import any_says, from_main, sum_over_ranks, together, union_over_ranks
from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.cluster.zero import TrainableState
from mtllm_ds.config.schema import Settings
from mtllm_ds.data.shards.manifest import ChatEntry, TaskEntry
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.data.stream.stream import StepBatches, TrainStream
from mtllm_ds.draws import seed_of
from mtllm_ds.errors import UserError
from mtllm_ds.objectives.base import Objective, ObjectiveOutput, StepWeights, add_sums, over_ranks, tokens_in
from mtllm_ds.observe.sinks import Sink
from mtllm_ds.observe.throughput import Throughput
from mtllm_ds.training.engine import Engine
from mtllm_ds.training.guards import StepFacts, require_sound_figures, require_sound_step, watched_gradients
from mtllm_ds.training.preemption import Preemption

_TOKENS = "tokens read since the last row"


@dataclass
class Trainer:
    """Everything a run is made of; `run` trains from `start_step` to the end."""

    settings: Settings
    cluster: Cluster
    engine: Engine
    objective: Objective
    stream: TrainStream
    validate: Callable[[], dict[str, float]] | None
    languages: Sequence[str]
    bases: dict[str, dict[str, str | None]]
    task: TaskEntry | None
    chat: ChatEntry | None
    kept: dict[str, torch.Tensor]
    sinks: list[Sink]
    preemption: Preemption
    start_step: int = 0
    newest_figures: dict[str, float] = field(default_factory=dict)
    """Of the newest validation before `start_step`."""
    lock: IO[str] | None = None
    """Held by rank 0 until `close`: nobody else trains into the folder."""

    def __post_init__(self) -> None:
        self._throughput = Throughput()
        self._dropped: set[int] = set()
        self._sums = self.objective.empty_sums()
        self._eval = dict(self.newest_figures)
        self._started = time.perf_counter()

    def run(self) -> bool:
        """Train; True if the run reached its last step, False if it was asked to stop (and saved)."""
        run, batches = self.settings.run, iter(self.stream)
        for step in range(self.start_step, run.max_steps):
            data = self._next(batches)
            learning_rate = self.engine.set_step(step)
            self._take_step(step, data)
            done, last = step + 1, step + 1 == run.max_steps
            stop = any_says(self.preemption.requested, self.cluster.device)
            if done % run.log_every == 0 or last:
                self._log(done, learning_rate)
            is_best = self._validate(done) if done % run.validate_every == 0 or last else False
            if done % run.save_every == 0 or is_best or last or stop:
                self._save(done, data.cursor, is_best)
            if stop and not last:
                return False
        return True

    def close(self) -> None:
        """Write out the log, give back signals and DeepSpeed's memory, and leave the run folder to others."""
        for sink in self.sinks:
            sink.close()
        self.preemption.close()
        self.engine.close()
        if self.lock is not None:
            self.lock.close()

    def _next(self, batches: Iterator[StepBatches]) -> StepBatches:
        """The next step's data, or a stop of all ranks when one of them has none."""
        data = together(lambda: next(batches), self.cluster.device)
        if self.settings.data.on_error == "skip":  # what is dropped is bounded over all ranks together
            dropped = union_over_ranks(self.stream.skipped_blocks, self._dropped, self.cluster.device)
            together(lambda: self.stream.note_skipped(dropped), self.cluster.device)
            self._dropped = dropped
        return data

    def _take_step(self, step: int, data: StepBatches) -> None:
        device = self.cluster.device
        self.objective.step_seed = seed_of(self.settings.run.seed, step)
        self.objective.step_share = step / self.settings.run.max_steps
        weights = StepWeights(partial(self._preview, step), self.engine.outside_forward, device)
        batches = self.objective.prepare(data.micro_batches, weights)
        count = torch.tensor(float(sum(self.objective.count(b) for b in batches)), device=device)
        count = sum_over_ranks(count)
        local_loss = torch.zeros((), device=device)
        for index, batch in enumerate(batches):
            output = self._forward_backward(step, index, batch, count)
            self.engine.step()
            local_loss += output.loss_sum.detach()
            self._sums = add_sums(self._sums, output.sums)
            self._throughput.add(tokens_in(batch, self.objective.side))
        facts = StepFacts(
            loss=float(local_loss),
            grad_norm=self.engine.grad_norm(),
            largest_weight=self.engine.largest_weight(),
            applied=self.engine.was_step_applied(),
        )
        require_sound_step(step + 1, facts, device, lambda: self._has_bad_gradient(step, batches, count))

    def _forward_backward(self, step: int, index: int, batch: Batch, count: torch.Tensor) -> ObjectiveOutput:
        output = self._forward(step, index, batch)
        self.engine.backward(output.loss_sum, count)
        return output

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
        tokens, seconds = self._throughput.read()
        totals = over_ranks({**self._sums, _TOKENS: torch.tensor(float(tokens))}, self.cluster.device)
        self._sums = self.objective.empty_sums()
        all_tokens = float(totals.pop(_TOKENS))
        row: dict[str, Any] = {"step": done, **self.objective.summarize(totals, self.languages)}
        row |= {
            "learning_rate": learning_rate,
            "grad_norm": self.engine.grad_norm(),
            "tokens_per_second": all_tokens / seconds,
            "seconds": time.perf_counter() - self._started,
        }
        row["seconds_left"] = row["seconds"] / (done - self.start_step) * (self.settings.run.max_steps - done)
        row |= self.stream.metrics()
        self._write(row)

    def _validate(self, done: int) -> bool:
        """Validate, if there is anything to validate on; True if the model was never better."""
        if self.validate is None:
            return False
        began = time.perf_counter()
        self._eval = {f"eval_{name}": value for name, value in self.validate().items()}
        self._throughput.pause(time.perf_counter() - began)
        self._write({"step": done, **self._eval})
        require_sound_figures(done, self._eval)
        if self._best_figure not in self._eval:
            raise UserError(
                f"data.validation={self.settings.data.validation}: gave no {self.settings.objective.selected_by}, which picks the "
                "best checkpoint; look at its samples, or set objective.select_by to another figure"
            )
        better = self.settings.objective.figures[self.settings.objective.selected_by]
        # All ranks must take the same branch, and only the main one reads the record before it changes.
        return from_main(
            lambda: is_better(checkpoint_root(self.settings), self._best_figure, self._eval, better),
            self.cluster.device,
        )

    @property
    def _best_figure(self) -> str:
        return f"eval_{self.settings.objective.selected_by}"

    def _save(self, done: int, cursor: dict[str, Any], is_best: bool) -> None:
        began = time.perf_counter()
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
        )
        root = checkpoint_root(self.settings)
        save_checkpoint(root, state, trainable, self.kept, self.cluster.is_main)
        if self.cluster.is_main:
            if is_best:
                note_best(root, done, self._best_figure, self._eval[self._best_figure])
            drop_old(root, self.settings.run.keep_checkpoints)
        self._throughput.pause(time.perf_counter() - began)

    def _write(self, row: dict[str, Any]) -> None:
        for sink in self.sinks:
            sink.write(row)
