"""The teacher that stands beside a run's student."""

from __future__ import annotations

from mtllm_ds.config.schema import Settings
from mtllm_ds.data.shards.manifest import TaskEntry
from mtllm_ds.models.readers import LLMReader, Reader
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.teachers.base import Teacher
from mtllm_ds.teachers.cached import CachedNextTokens, CachedTeacher
from mtllm_ds.teachers.frozen_self import FrozenSelf


def teacher_beside(settings: Settings, reader: Reader, task: TaskEntry | None) -> Teacher | None:
    """Who gives the objective its targets; None where the data do."""
    if settings.teacher_kind == "cached" and settings.objective.next_tokens_at is not None:
        return CachedNextTokens()
    if settings.teacher_kind == "cached":
        return CachedTeacher(reader.hidden_size, of_choices=task is not None and task.type == "multiple_choice")
    if settings.teacher_kind == "frozen_self":
        assert isinstance(reader, StackedModel | LLMReader)
        return FrozenSelf(reader, keeps_start=settings.objective.teacher_keeps_start)
    return None
