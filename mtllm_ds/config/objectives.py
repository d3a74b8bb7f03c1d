"""What a run minimises: one class an objective, each saying what it needs. Nothing else asks for an objective's name.

A recipe's `objective.name` picks the class: a built-in name, or `module:Class` for one of your own (the module on `PYTHONPATH`).
Settings of other objectives are unknown keys. What a class says of itself stands in `objective.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from mtllm_ds.config.balanced import BalancedTeachers
from mtllm_ds.config.objective import ObjectiveSettings
from mtllm_ds.config.section import unread
from mtllm_ds.config.sections import CommonSections
from mtllm_ds.config.token_distillation import TokenDistillation

_CHOICE_SPANS = ("encoder_choice_spans", "llm_choice_spans")


class PooledAlignment(ObjectiveSettings):
    """Stage 1 of MT-LLM: mean-squared error between pooled final states."""

    name: Literal["pooled_alignment"] = "pooled_alignment"
    sequence_weight: float = Field(default=1.0, ge=0)
    """Weight of the error between pooled states."""
    token_weight: float = Field(default=0.0, ge=0)
    """Weight of the error between the states of words that are one token on both sides (a later variant by the authors: 0.667, with
    sequence_weight 0.333). Needs shards made with `--token-pairs`."""
    contrastive_weight: float = Field(default=0.0, ge=0)
    """Weight of a contrastive term in training (not of the paper): a text's vector finds its target among those of the whole step,
    on all ranks, by the cosine of both less the targets' mean. The teacher then reads before a step's first forward."""
    contrastive_temperature: float = Field(default=0.05, gt=0)
    """Divides the cosines of the contrastive term."""

    built_by: ClassVar = "mtllm_ds.objectives.pooled_alignment:PooledAlignment"
    students: ClassVar = ("stacked",)
    teachers: ClassVar = ("frozen_self", "cached")
    figures: ClassVar = {"loss": "lower", "fvu": "lower"}
    optional_columns: ClassVar = ("token_pairs",)
    trains_connector: ClassVar = True

    @property
    def columns(self) -> tuple[str, ...]:
        return ("token_pairs",) if self.token_weight else ()

    @property
    def asks_teacher_ahead(self) -> bool:
        return self.contrastive_weight > 0 and not self.token_weight

    def mistakes(self, run: CommonSections) -> Iterator[str]:
        if not self.contrastive_weight:
            yield from unread(self, "objective", ("contrastive_temperature",), "without objective.contrastive_weight")
        elif not run.data.has_budgets and run.data.lanes * run.data.num_samples_per_cell < 2:
            yield (
                f"objective.contrastive_weight={self.contrastive_weight}: compares the texts of a step, and there is one; raise "
                "data.lanes or data.samples_per_cell"
            )
        if self.token_weight and run.data.targets is not None:
            yield (
                f"objective.token_weight={self.token_weight}: needs the teacher's states, and data.targets holds its pooled "
                "vectors only; remove one of the two"
            )
        elif not self.token_weight + self.sequence_weight + self.contrastive_weight:
            yield "objective.sequence_weight=0: objective.token_weight and contrastive_weight are 0 as well; set one of them"


class TaskTuning(ObjectiveSettings):
    """Cross-entropy of a head on labelled shards."""

    name: Literal["task_tuning"] = "task_tuning"
    head_bias: bool = True
    """Whether the head adds a bias to its scores; the authors of MT-LLM use none."""

    built_by: ClassVar = "mtllm_ds.objectives.task_tuning:TaskTuning"
    students: ClassVar = ("llm", "stacked", "encoder")
    figures: ClassVar = {"accuracy": "higher", "macro_f1": "higher", "loss": "lower"}
    optional_columns: ClassVar = _CHOICE_SPANS
    answers_a_task: ClassVar = True
    systems: ClassVar = {"llm": "llm_direct", "encoder": "mt_encoder", "stacked": "mtllm_direct"}

    @property
    def columns(self) -> tuple[str, ...]:
        return ("label",)


class TaskDistillation(ObjectiveSettings):
    """Stage 2 of MT-LLM: the stack matches a task-tuned teacher's cached vectors."""

    name: Literal["task_distillation"] = "task_distillation"
    teacher: str | None = None
    """Run or export of the teacher; its head is copied and stays frozen."""
    start_at_teacher: bool = False
    """LoRA starts as the teacher's, beside stage 1's (needs `model.merge_start_lora`). The student begins with both changes to the
    LLM instead of learning the task's from nothing."""
    match: Literal["vectors", "logits"] = "vectors"
    """Mean-squared error between pooled (or choice) vectors, or the KL divergence of the head's answers."""

    built_by: ClassVar = "mtllm_ds.objectives.task_distillation:TaskDistillation"
    students: ClassVar = ("stacked",)
    teachers: ClassVar = ("cached",)
    figures: ClassVar = {"loss": "lower", "fvu": "lower", "accuracy": "higher", "macro_f1": "higher"}
    optional_columns: ClassVar = ("label", *_CHOICE_SPANS)
    answers_a_task: ClassVar = True
    systems: ClassVar = {"stacked": "mtllm_stage2"}

    @property
    def teacher_run(self) -> str | None:
        return self.teacher

    @property
    def starts_at_teacher(self) -> bool:
        return self.start_at_teacher

    def mistakes(self, run: CommonSections) -> Iterator[str]:
        if self.teacher is None:
            yield "objective.teacher=null: the method learns from one; name the teacher's run or export"
        if self.start_at_teacher and not run.model.merge_start_lora:
            yield (
                "objective.start_at_teacher=true: would replace the LoRA of model.start by the teacher's; "
                "set model.merge_start_lora=true, or remove it"
            )


class _Adaptation(ObjectiveSettings):
    """A causal LLM learns to look both ways (LLM2Vec)."""

    students: ClassVar = ("llm",)
    packs: ClassVar = False
    teaches_direction: ClassVar = True

    def mistakes(self, run: CommonSections) -> Iterator[str]:
        if run.model.llm is not None and not run.model.llm.bidirectional:
            yield f"model.llm.bidirectional=false: objective.name={self.name} teaches the LLM to look both ways; set it to true"


class MaskedNextToken(_Adaptation):
    """First step of LLM2Vec: masked tokens are told from the position before."""

    name: Literal["masked_next_token"] = "masked_next_token"
    mask_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of a text's tokens that is masked."""
    mask_token: str = "_"
    """Token of the LLM's vocabulary that stands for a masked one."""

    built_by: ClassVar = "mtllm_ds.objectives.masked_next_token:MaskedNextToken"
    figures: ClassVar = {"loss": "lower", "masked_accuracy": "higher"}

    def mistakes(self, run: CommonSections) -> Iterator[str]:
        yield from super().mistakes(run)
        if run.model.start is not None and run.model.trainable != "lora":
            yield (
                f"model.start={run.model.start}: objective.name=masked_next_token takes its head from model.llm.name, which a "
                "start with weights of its own no longer fits; start from the base model, or train LoRA"
            )


class SimCSE(_Adaptation):
    """Second step of LLM2Vec: a text's two vectors under dropout find each other among those of other texts."""

    name: Literal["simcse"] = "simcse"
    negatives: Literal["cell", "step"] = "cell"
    """The other texts that a text stands against: those of its cell (`data.samples_per_cell` - 1), or all of the step, on all ranks
    (`data.lanes` x `data.samples_per_cell` - 1; LLM2Vec has 127). `step` runs each forward twice, and needs no more memory."""
    temperature: float = Field(default=0.05, gt=0)
    """Divides the cosines."""
    attention_dropout: float = Field(default=0.3, ge=0, lt=1)
    """Dropout of attention weights, which tells a text's two vectors apart."""

    built_by: ClassVar = "mtllm_ds.objectives.simcse:SimCSE"
    figures: ClassVar = {"loss": "lower", "self_similarity": "higher"}

    @property
    def draws_dropout(self) -> bool:
        return self.attention_dropout > 0

    def mistakes(self, run: CommonSections) -> Iterator[str]:
        yield from super().mistakes(run)
        if not run.data.has_budgets:
            yield from self._too_few_texts(run.data.lanes, run.data.num_samples_per_cell)
        has_lora_dropout = run.model.trainable == "lora" and run.model.lora.dropout > 0
        if not self.attention_dropout and not has_lora_dropout:
            yield (
                "objective.attention_dropout=0: without any dropout a text's two vectors are the same; raise it, or train LoRA "
                "with model.lora.dropout above 0"
            )
        if self.attention_dropout and run.model.attention == "flash_attention_4":
            yield (
                f"objective.attention_dropout={self.attention_dropout}: flash attention 4 has no dropout; "
                "set model.attention=sdpa or flash_attention_2"
            )

    def _too_few_texts(self, lanes: int, samples_per_cell: int) -> Iterator[str]:
        if self.negatives == "cell" and samples_per_cell < 2:
            yield (
                f"data.samples_per_cell={samples_per_cell}: objective.name=simcse compares the texts of a cell; "
                "set it to 2 or more, or objective.negatives=step"
            )
        elif lanes * samples_per_cell < 2:
            yield f"data.lanes={lanes}: objective.name=simcse compares the texts of a step, and there is one; raise it"


BUILT_IN: dict[str, type[ObjectiveSettings]] = {
    cls.model_fields["name"].default: cls
    for cls in (
        PooledAlignment,
        TaskTuning,
        TaskDistillation,
        MaskedNextToken,
        SimCSE,
        BalancedTeachers,
        TokenDistillation,
    )
}


def objective_class(name: str) -> type[ObjectiveSettings]:
    """The settings of a built-in objective, or of `module:Class`; `ValueError` where there is none."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"no such objective; there are {', '.join(BUILT_IN)}, or module:Class for one of your own")
    found = imported(name)
    if not (isinstance(found, type) and issubclass(found, ObjectiveSettings)):
        raise ValueError(f"{attribute} of {module} is no subclass of ObjectiveSettings; name one that is")
    return found


def names_of_systems(objective: str) -> Mapping[str, str]:
    """What tables call models that an objective trained, by `model.reader`; nothing of an objective that is not at hand."""
    try:
        return {str(student): name for student, name in objective_class(objective).systems.items()}
    except ValueError:
        return {}


def imported(place: str) -> Any:
    """What stands at `module:attribute`; `ValueError` where nothing does."""
    module, _, attribute = place.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{place} cannot be imported ({error}); put its folder on PYTHONPATH") from error


def _chosen(values: Any) -> Any:
    """Plain values as the settings that their name asks for."""
    if not isinstance(values, Mapping):
        return values
    name = values.get("name", PooledAlignment.model_fields["name"].default)
    if not isinstance(name, str):
        raise ValueError("name: expected the name of an objective")
    return objective_class(name).model_validate({**values, "name": name})


AnyObjective = Annotated[SerializeAsAny[ObjectiveSettings], BeforeValidator(_chosen)]
"""The section `objective` of a recipe."""
