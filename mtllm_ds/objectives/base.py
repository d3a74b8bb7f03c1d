"""The contract between an objective and the loop: sums and counts, never means.

A new objective is a subclass of `Objective` and a subclass of `config.objectives.ObjectiveSettings` that names it in `built_by`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mtllm_ds.cluster.agree import sum_over_ranks
from mtllm_ds.config.objectives import imported
from mtllm_ds.config.schema import Settings
from mtllm_ds.data.shards.manifest import ChatEntry, TaskEntry
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.models.readers import Reader, Side
from mtllm_ds.teachers.bank import TeacherBank
from mtllm_ds.teachers.base import Teacher

Sums = dict[str, torch.Tensor]


@dataclass(frozen=True)
class ObjectiveOutput:
    """What one forward gives: everything is a sum, so forwards, steps and ranks add up."""

    loss_sum: torch.Tensor
    """Scalar with gradient: the summed loss of the valid rows."""
    sums: Sums
    """Detached sums for the log, still on the device, with the names and shapes of `Objective.empty_sums`."""
    vectors: torch.Tensor | None = None
    """(B, ...) detached: what `Objective.prepare` reads of the rows, if it reads anything."""


@dataclass(frozen=True)
class StepWeights:
    """What can be done with a step's weights before its first forward."""

    preview: Callable[[int, Batch], ObjectiveOutput]
    """(index, batch) -> that forward as it will be, without gradient, its dropout drawn alike"""
    outside_forward: Callable[[Iterable[nn.Parameter]], AbstractContextManager[None]]
    """Inside, modules of the objective may run by themselves, without gradient; the given weights stay whole under ZeRO-3"""
    device: torch.device
    coming: tuple[str, ...] = ()
    """Language codes of this rank's first forward of the next step"""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a run hands its objective."""

    settings: Settings
    student: Reader
    teacher: Teacher | None
    bank: TeacherBank | None = None
    """The teachers that `ObjectiveSettings.bank` names, where it names some."""
    num_languages: int
    """Languages of the training or of the validation set, whichever has more."""
    task: TaskEntry | None = None
    """The task of the shards, where the objective answers one."""
    chat: ChatEntry | None = None
    """How the dialogues of the shards are put into words, where they are dialogues."""
    head: Mapping[str, torch.Tensor] | None = None
    """fp32 weights of the head of `ObjectiveSettings.teacher_run`."""


class Objective(nn.Module, ABC):
    """The one module that the engine wraps: all use of sharded weights happens inside its forward."""

    student: Reader
    step_seed: int = 0
    """Set by the loop before a training step. What an objective draws may depend on it and the sample alone, never on the batch."""
    step_share: float = 0.0
    """Share of the run's steps that are made; set by the loop before a training step."""

    @classmethod
    @abstractmethod
    def build(cls, parts: Parts) -> Objective:
        """The objective of a run."""

    @abstractmethod
    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Loss and sums of one micro-batch."""

    def prepare(self, batches: Sequence[Batch], step: StepWeights) -> Sequence[Batch]:
        """The forwards of a training step, on the host, with what must be known before the first; called by all ranks alike.

        A loss that is a sum over rows of the data needs nothing. One that compares rows of different forwards or ranks looks at
        each of its own with `step.preview`; one whose rows the student writes itself runs the model within `step.outside_forward`.
        """
        return batches

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """What the batch adds to the divisor of the loss, known before its forward: asked while the batch is on the host, where an
        objective can note what its forward must know (`HostFacts.noted`)."""

    @abstractmethod
    def empty_sums(self) -> Sums:
        """Zeros, float64 on the CPU, of the name and shape of everything that `forward` sums.

        Fixed for a run: which collectives are made may not depend on what a rank happened to see.
        """

    @abstractmethod
    def summarize(self, sums: Mapping[str, torch.Tensor], languages: Sequence[str]) -> dict[str, float]:
        """Readable figures (`loss` among them) from sums added up over forwards and ranks."""

    @property
    def side(self) -> Side:
        """Whose ids the student reads."""
        return self.student.side


def build_objective(parts: Parts) -> Objective:
    """The objective that the settings name."""
    return imported(parts.settings.objective.built_by).build(parts)


def zeros(*names: str, **shapes: Sequence[int]) -> Sums:
    """Empty sums: scalars by name, others with their shapes."""
    wanted: dict[str, Sequence[int]] = {**dict.fromkeys(names, ()), **shapes}
    return {name: torch.zeros(tuple(shape), dtype=torch.float64) for name, shape in wanted.items()}


def add_sums(total: Sums, more: Mapping[str, torch.Tensor]) -> Sums:
    """Elementwise total of sums with the same names, on the device of `more`."""
    assert total.keys() == more.keys(), f"sums differ: {sorted(total.keys() ^ more.keys())}"
    return {name: total[name].to(value.device) + value for name, value in more.items()}


def over_ranks(sums: Sums, device: torch.device) -> Sums:
    """Totals over all ranks, on the CPU, by one all-reduce."""
    flat = torch.cat([value.double().flatten().to(device) for value in sums.values()])
    parts = sum_over_ranks(flat).cpu().split([value.numel() for value in sums.values()])
    return {name: part.view(value.shape) for (name, value), part in zip(sums.items(), parts, strict=True)}


def per_language(values: torch.Tensor, languages: torch.Tensor, num_languages: int) -> torch.Tensor:
    """Sums of row values by language: (B,), (B,) int64 -> (num_languages,)."""
    return torch.zeros(num_languages, dtype=values.dtype, device=values.device).index_add_(0, languages, values)


def tokens_in(batch: Batch, side: Side) -> int:
    """Tokens that the student reads in a batch (valid rows)."""
    return sum(batch.host.num_tokens[side])


def plain(value: Any) -> float:
    return float(value.item() if isinstance(value, torch.Tensor) else value)
