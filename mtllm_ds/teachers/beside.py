"""The teacher that stands beside a run's student."""

from __future__ import annotations

from mtllm_ds.cluster.leaves import gather_as_one
from mtllm_ds.config.schema import Settings
from mtllm_ds.data.shards.manifest import TaskEntry
from mtllm_ds.models.pairing import Pairing
from mtllm_ds.models.readers import LLMReader, Reader
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.teachers.base import Teacher
from mtllm_ds.teachers.cached import CachedNextTokens, CachedTeacher
from mtllm_ds.teachers.frozen_self import FrozenSelf
from mtllm_ds.teachers.paired_self import PairedSelf


def teacher_beside(
    settings: Settings, reader: Reader, task: TaskEntry | None, pairing: Pairing | None = None
) -> Teacher | None:
    """Who gives the objective its targets; None where the data do. With a `pairing` that holds it goes beside the student layer by
    layer, which ZeRO-3 is told."""
    if settings.teacher_kind == "cached" and settings.objective.next_tokens_at is not None:
        return CachedNextTokens()
    if settings.teacher_kind == "cached":
        return CachedTeacher(reader.hidden_size, of_choices=task is not None and task.type == "multiple_choice")
    if settings.teacher_kind == "frozen_self":
        assert isinstance(reader, StackedModel | LLMReader)
        keeps_start = settings.objective.teacher_keeps_start
        if pairing is None or pairing.failure:
            return FrozenSelf(reader, keeps_start=keeps_start)
        teacher = PairedSelf(reader, keeps_start=keeps_start, gives_tuples=pairing.gives_tuples)
        gather_as_one(teacher.layers)
        return teacher
    return None
