"""From settings to an objective: one entry a name, so that a new method is one more line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mtllm_ds.checkpoint.trained import Trained
from mtllm_ds.config.schema import Settings
from mtllm_ds.data.manifest import TaskEntry
from mtllm_ds.models.build import dtype_of
from mtllm_ds.models.heads import head_from, new_head
from mtllm_ds.models.readers import Reader
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.objectives.base import Objective
from mtllm_ds.objectives.pooled_alignment import PooledAlignment
from mtllm_ds.objectives.task_distillation import TaskDistillation
from mtllm_ds.objectives.task_tuning import TaskTuning


@dataclass(frozen=True)
class Parts:
    """What an objective is made of."""

    settings: Settings
    reader: Reader
    num_languages: int
    """Languages of the training or of the validation set, whichever has more."""
    task: TaskEntry | None
    teacher: Trained | None


def build_objective(parts: Parts) -> Objective:
    """The objective of a recipe around its reader."""
    return _BUILDERS[parts.settings.objective.name](parts)


def _pooled_alignment(parts: Parts) -> Objective:
    assert isinstance(parts.reader, StackedModel)
    objective = parts.settings.objective
    return PooledAlignment(
        parts.reader,
        parts.num_languages,
        cached_teacher=parts.settings.data.targets is not None,
        sequence_weight=objective.sequence_weight,
        token_weight=objective.token_weight,
    )


def _task_tuning(parts: Parts) -> Objective:
    assert parts.task is not None
    settings, reader = parts.settings, parts.reader
    head = new_head(reader.hidden_size, parts.task, seed=settings.run.seed, dtype=dtype_of(settings))
    return TaskTuning(reader, head, parts.task, parts.num_languages)


def _task_distillation(parts: Parts) -> Objective:
    settings, teacher = parts.settings, parts.teacher
    assert teacher is not None
    assert teacher.head is not None
    assert teacher.task is not None
    head = head_from(teacher.head, parts.reader.hidden_size, f"objective.teacher={settings.objective.teacher}")
    head = head.to(dtype_of(settings))
    return TaskDistillation(parts.reader, head, teacher.task, parts.num_languages, settings.objective.match)


_BUILDERS: dict[str, Callable[[Parts], Objective]] = {
    "pooled_alignment": _pooled_alignment,
    "task_tuning": _task_tuning,
    "task_distillation": _task_distillation,
}
