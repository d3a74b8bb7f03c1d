"""A rank of each kind of variant: builds what it is, and makes a step whenever it is its turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.training.material import RECIPE
from benchmarks.training.turns import Turns
from mtllm_ds.cluster.agree import sum_over_ranks
from mtllm_ds.cluster.launch import device_alone, join_cluster
from mtllm_ds.cluster.leaves import gather_as_one
from mtllm_ds.cluster.parameter_groups import parameter_groups
from mtllm_ds.config import load_settings
from mtllm_ds.config.schema import Settings
from mtllm_ds.data.shards.manifest import TaskEntry
from mtllm_ds.data.stream.stream import StepBatches, TrainStream
from mtllm_ds.models.build import arrange_reader, build_reader
from mtllm_ds.models.paired import layers_of
from mtllm_ds.models.pairing import Pairing
from mtllm_ds.models.readers import Reader, base_of
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.objectives.pooled_alignment import PooledAlignment
from mtllm_ds.teachers.base import Teacher
from mtllm_ds.teachers.frozen_self import FrozenSelf
from mtllm_ds.training import assemble
from mtllm_ds.training.loop import Trainer


def ours(turns: Turns, folder: Path, name: str, overrides: Sequence[str], num_rounds: int) -> None:
    """The product's own loop, the next step's data included."""
    with opened(settings_of(folder, name, overrides)) as trainer:
        stream: Any = _InTurns(trainer.stream, turns)
        trainer.stream = stream
        trainer.run()


def plain(turns: Turns, folder: Path, name: str, overrides: Sequence[str], num_rounds: int) -> None:
    """The same loop over two passes, teacher and student, whose layers are gathered whole as ours are."""
    make = assemble.teacher_beside

    def with_leaves(
        settings: Settings, reader: Reader, task: TaskEntry | None, pairing: Pairing | None = None
    ) -> Teacher | None:
        assert isinstance(reader, StackedModel)
        owner, place = layers_of(base_of(reader.llm))
        gather_as_one(owner.get_submodule(place).children())
        return make(settings, reader, task, pairing)

    assemble.teacher_beside = with_leaves
    try:
        ours(turns, folder, name, [*overrides, "model.paired_sweep=false"], num_rounds)
    finally:
        assemble.teacher_beside = make


def bare(turns: Turns, folder: Path, name: str, overrides: Sequence[str], num_rounds: int) -> None:
    """Forward, backward and step of the product's engine on batches that are there already: no check, no figure, no row."""
    with opened(settings_of(folder, name, overrides)) as trainer:
        engine, device = trainer.engine, trainer.cluster.device
        steps = [_counted(trainer.objective, data) for data in islice(trainer.stream, num_rounds)]
        counts = [sum_over_ranks(torch.tensor(count, device=device)) for _, count in steps]
        for (batches, _), count in zip(steps, counts, strict=True):
            turns.next()
            for batch in batches:
                engine.backward(engine.forward(batch.to(device)).loss_sum, count)
                engine.step()
        turns.next()


def alone(turns: Turns, folder: Path, name: str, overrides: Sequence[str], num_rounds: int) -> None:
    """The same step on one rank, all documents of it, in plain PyTorch: no DeepSpeed, no loop of ours, two passes."""
    settings = settings_of(folder, name, overrides)
    device = device_alone()
    reader = build_reader(settings, device).to(device)
    assert isinstance(reader, StackedModel)
    arrange_reader(reader, settings)
    objective = PooledAlignment(reader, FrozenSelf(reader), num_languages=1).train()
    update = Update(parameter_groups(objective, settings.optim), settings.optim.max_grad_norm)
    stream = TrainStream(str(settings.data.train), settings.data, seed=settings.run.seed)
    for data in stream:
        turns.next()
        batches, count = _counted(objective, data)
        for batch in batches:
            (objective(batch.to(device)).loss_sum / count).backward()
        update()


def trainer(turns: Turns, folder: Path, name: str, overrides: Sequence[str], num_rounds: int) -> None:
    """The script of `trainer_script.py`, its own data included."""
    from transformers import TrainerCallback

    from benchmarks.training.trainer_script import build_trainer

    join_cluster()  # as the launcher would

    class InTurns(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            turns.next()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.next()

    build_trainer(folder, num_rounds + 1, [InTurns()]).train()


KINDS: dict[str, Callable[..., None]] = {
    "ours": ours, "plain": plain, "bare": bare, "alone": alone, "trainer": trainer,
}  # fmt: skip


class Update:
    """AdamW on fp32 masters of weights in any dtype, the norm of their gradients clipped."""

    def __init__(self, groups: list[dict[str, Any]], max_grad_norm: float) -> None:
        self._weights = [weight for group in groups for weight in group["params"]]
        masters = {id(weight): weight.detach().float().clone().requires_grad_() for weight in self._weights}
        self._masters, self._max_grad_norm = [masters[id(weight)] for weight in self._weights], max_grad_norm
        self._optimizer = torch.optim.AdamW(
            [{**group, "params": [masters[id(weight)] for weight in group["params"]]} for group in groups]
        )

    def __call__(self) -> None:
        for weight, master in zip(self._weights, self._masters, strict=True):
            master.grad, weight.grad = weight.grad.float(), None
        torch.nn.utils.clip_grad_norm_(self._masters, self._max_grad_norm)
        self._optimizer.step()
        with torch.no_grad():
            for weight, master in zip(self._weights, self._masters, strict=True):
                weight.copy_(master)


class _InTurns:
    """A stream, of which every step but the first ends the turn of the one before."""

    def __init__(self, stream: TrainStream, turns: Turns) -> None:
        self._stream, self._turns = stream, turns

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[StepBatches]:
        batches = iter(self._stream)
        while True:
            self._turns.next()
            yield next(batches)


@contextmanager
def opened(settings: Settings) -> Iterator[Trainer]:
    """A run of the product, closed in the end."""
    run = assemble.open_run(settings, join_cluster(), False, Console(quiet=True))
    try:
        yield run
    finally:
        run.close()


def settings_of(folder: Path, name: str, overrides: Sequence[str]) -> Settings:
    """The recipe of a size with overrides, in a run folder of its own."""
    return load_settings(folder / RECIPE, [*overrides, f"run.output_dir={folder / 'runs' / name}"])


def _counted(objective: Any, data: StepBatches) -> tuple[list[Any], float]:
    """A step's forwards, and what this rank adds to the divisor of their loss."""
    return data.micro_batches, float(sum(objective.count(batch) for batch in data.micro_batches))
