"""From settings to an objective: one entry a name, so that a new method is one more line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mtllm_ds.checkpoint.trained import Trained
from mtllm_ds.config.schema import Settings
from mtllm_ds.data.shards.manifest import TaskEntry
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.models.build import dtype_of
from mtllm_ds.models.heads import head_from, new_head
from mtllm_ds.models.lm_head import load_lm_head
from mtllm_ds.models.readers import LLMReader, Reader
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.objectives.base import Objective
from mtllm_ds.objectives.masked_next_token import MaskedNextToken
from mtllm_ds.objectives.pooled_alignment import PooledAlignment
from mtllm_ds.objectives.simcse import SimCSE
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


def _masked_next_token(parts: Parts) -> Objective:
    assert isinstance(parts.reader, LLMReader)
    settings, llm = parts.settings, parts.settings.model.llm
    spec = TokenizerSpec(
        name=llm.name, revision=llm.revision, side="llm", max_length=llm.max_length,
        trust_remote_code=llm.trust_remote_code,
    )  # fmt: skip
    mask_id = load_text_tokenizer(spec).id_of(settings.objective.mask_token, "objective.mask_token")
    lm_head = load_lm_head(llm, parts.reader, dtype_of(settings))
    return MaskedNextToken(parts.reader, lm_head, mask_id, settings.objective.mask_share)


def _simcse(parts: Parts) -> Objective:
    samples_per_cell, objective = parts.settings.data.samples_per_cell, parts.settings.objective
    assert samples_per_cell is not None
    return SimCSE(parts.reader, samples_per_cell, objective.temperature, objective.attention_dropout)


_BUILDERS: dict[str, Callable[[Parts], Objective]] = {
    "pooled_alignment": _pooled_alignment,
    "task_tuning": _task_tuning,
    "task_distillation": _task_distillation,
    "masked_next_token": _masked_next_token,
    "simcse": _simcse,
}
