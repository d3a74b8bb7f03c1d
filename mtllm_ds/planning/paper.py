"""A run's objective and a batch for it, from settings and `config.json` alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mtllm_ds.config.schema import Settings
from mtllm_ds.data.columns import (
    CHOICE_SPANS,
    ENCODER_IDS,
    LLM_IDS,
    RESPONSE_START,
    STUDENT_PROMPT_IDS,
    TEACHER_LOG_TAIL_MASS,
    TEACHER_POOLED,
    TEACHER_TOP_IDS,
    TEACHER_TOP_LOG_PROBS,
    TOKEN_PAIRS,
    Column,
    column_named,
)
from mtllm_ds.data.shards.blocks import Ragged
from mtllm_ds.data.shards.manifest import ChatEntry, Manifest, TaskEntry
from mtllm_ds.data.stream.collate import Batch, Collator, Sample
from mtllm_ds.errors import UserError
from mtllm_ds.models.build import arrange_reader, build_reader
from mtllm_ds.models.loading import llm_config
from mtllm_ds.models.own_weights import add_frozen_adapter
from mtllm_ds.models.readers import Reader
from mtllm_ds.models.weightless import weightless
from mtllm_ds.objectives.base import Objective, Parts, build_objective
from mtllm_ds.preflight.paired import check_pairing
from mtllm_ds.teachers.beside import teacher_beside
from mtllm_ds.weight_names import as_frozen, is_lora

_ASSUMED_TASK = TaskEntry("assumed", "classification", ("a", "b", "c"))
_NUM_CHOICES = 2
_NUM_LIKELIEST = 64
"""Of the tokens that a teacher told before"""
_NEXT_TOKENS = (TEACHER_TOP_IDS, TEACHER_TOP_LOG_PROBS, TEACHER_LOG_TAIL_MASS)


@dataclass(frozen=True)
class Text:
    """The samples that a run is planned for, all alike."""

    encoder_tokens: int
    llm_tokens: int
    task: TaskEntry
    num_languages: int


def text_of(settings: Settings, encoder_tokens: int | None, llm_tokens: int | None) -> Text:
    """Samples of the given lengths, of `max_length` where none is given; task and languages of the training set, if it is here.

    Raises:
        UserError: a length beyond `max_length`, or of a side that the recipe does not have.
    """
    folder = Path(settings.data.train_sets[0].path)
    manifest = Manifest.load(str(folder)) if (folder / "manifest.json").is_file() else None
    return Text(
        encoder_tokens=_length(settings, "encoder", encoder_tokens),
        llm_tokens=_length(settings, "llm", llm_tokens),
        task=manifest.task if manifest is not None and manifest.task is not None else _ASSUMED_TASK,
        num_languages=len(manifest.languages) if manifest is not None else 1,
    )


def _length(settings: Settings, side: Literal["encoder", "llm"], asked: int | None) -> int:
    given = settings.model.given.get(side)
    longest = 0 if given is None else given.max_length
    if asked is None:
        return longest
    if given is None:
        raise UserError(f"--{side}-tokens={asked}: has no effect without model.{side}; remove it")
    if asked > longest:
        raise UserError(
            f"--{side}-tokens={asked}: more than model.{side}.max_length={longest}; lower it, or raise the setting"
        )
    return asked


def objective_on_paper(settings: Settings, text: Text) -> Objective:
    """The objective as a run builds it, in training, every tensor on `meta`."""
    task = text.task if settings.objective.answers_a_task else None
    llm = settings.model.llm
    # ZeRO-2 gathers nothing: for it, too, this is one forward and backward.
    pairing = check_pairing(settings, llm_config(llm) if llm is not None else None, zero_stage=3)
    with weightless():
        reader = build_reader(settings, torch.device("cpu"))
        if settings.model.merge_start_lora:
            _add_start(reader)
        arrange_reader(reader, settings)
        labels = 1 if task is not None and task.type == "multiple_choice" else len(text.task.labels)
        objective = build_objective(
            Parts(
                settings=settings,
                student=reader,
                teacher=teacher_beside(settings, reader, task, pairing),
                num_languages=text.num_languages,
                task=task,
                chat=ChatEntry(template=None, system_prompt=None, end_id=0),
                head={"weight": torch.zeros(labels, reader.hidden_size), "bias": torch.zeros(labels)},
            )
        )
    return objective.to("meta").train()


def _add_start(reader: Reader) -> None:
    """The frozen LoRA of `model.start`, which nobody reads here: of the rank of the one that trains."""
    lora = {name: tensor for name, tensor in reader.named_parameters() if is_lora(name)}
    add_frozen_adapter(reader, {as_frozen(name): tensor for name, tensor in lora.items()})


def batch_on_paper(settings: Settings, text: Text, num_cells: int, hidden_size: int) -> Batch:
    """One forward's batch of `num_cells` full cells."""
    per_cell = samples_per_cell(settings, text)
    total = num_cells * per_cell
    block: dict[str, Any] = {
        ENCODER_IDS: _tokens(total, text.encoder_tokens),
        LLM_IDS: _tokens(total, text.llm_tokens),
        **{column.name: _values(column, text, total, hidden_size) for column in _columns(settings, text)},
    }
    samples = [Sample(block, row, 0, row) for row in range(total)]
    collate = Collator(
        pad_ids=dict.fromkeys(settings.model.given, 0),
        packing_buckets=settings.data.encoder_buckets if settings.data.has_budgets else 0,
        language_codes=("eng_Latn",),
    )
    return collate([samples[start : start + per_cell] for start in range(0, total, per_cell)])


def samples_per_cell(settings: Settings, text: Text) -> int:
    """Samples of a cell: a fixed count, or as many of these as fit the token budgets."""
    data = settings.data
    if not data.has_budgets:
        return data.num_samples_per_cell
    budgets = (
        (data.encoder_tokens_per_cell, text.encoder_tokens),
        (data.llm_tokens_per_cell, text.llm_tokens),
    )
    return max(1, min(budget // length for budget, length in budgets if budget is not None and length))


def _columns(settings: Settings, text: Text) -> list[Column]:
    objective = settings.objective
    names = dict.fromkeys(objective.columns_of(settings.model.reader))
    if settings.teacher_kind == "cached":
        names |= dict.fromkeys([TEACHER_POOLED] if objective.next_tokens_at is None else _NEXT_TOKENS)
    if objective.answers_a_task and text.task.type == "multiple_choice":
        names |= dict.fromkeys(CHOICE_SPANS.values())
    return [column_named(name) for name in names]


def _values(column: Column, text: Text, total: int, hidden_size: int) -> Any:
    """What a column holds of `total` samples: of the right shape, and nothing more."""
    if column.name == RESPONSE_START:  # half of the text is the prompt
        return np.full(total, max(1, text.llm_tokens // 2))
    if column.name == STUDENT_PROMPT_IDS:
        return _tokens(total, max(1, text.llm_tokens // 2))
    if column.name in _NEXT_TOKENS:
        shape = (text.llm_tokens, *((_NUM_LIKELIEST,) if column.name != TEACHER_LOG_TAIL_MASS else ()))
        return Ragged.from_rows([np.zeros(shape, column.dtype)] * total, np.dtype(column.dtype))
    if column.name == TOKEN_PAIRS:
        return Ragged.from_rows([np.array([[1, 1]])] * total, np.int32)
    if column.per == "choice":
        return Ragged.from_rows([np.array([[at, at + 1] for at in range(_NUM_CHOICES)])] * total, np.int32)
    if column.per == "row or choice" and text.task.type == "multiple_choice":
        return Ragged.from_rows([np.zeros((_NUM_CHOICES, hidden_size), np.float32)] * total, np.float32)
    if column.per == "row or choice":
        return np.zeros((total, hidden_size), np.float32)
    if column.per == "row":
        return np.zeros(total, column.dtype)
    return Ragged.from_rows([np.zeros(text.llm_tokens, column.dtype)] * total, np.dtype(column.dtype))


def _tokens(total: int, length: int) -> Ragged:
    return Ragged.from_rows([np.ones(length, np.int64)] * total, np.uint32)
