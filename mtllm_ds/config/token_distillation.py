"""Settings of `token_distillation`: one objective for generative stacks, answers in other languages, and what follows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from mtllm_ds.config.objective import ObjectiveSettings, Student, TeacherKind
from mtllm_ds.config.section import FREE, Section, unread
from mtllm_ds.config.sections import CommonSections, ModelSettings


class Rollouts(Section):
    """The student writes the responses itself (on-policy distillation): before each step, from the weights as they then are."""

    max_new_tokens: int = Field(default=128, gt=0)
    """Most tokens of a response; `model.llm.max_length` bounds prompt and response together."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Share of the samples whose response the student writes; the others keep that of the data (lambda of GKD)."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits that a token is drawn from."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw from the likeliest tokens that have this much of the probability between them."""
    top_k: int | None = Field(default=None, gt=0)
    """Draw from so many likeliest tokens; null draws from all."""
    gather: Literal["whole", "layers"] = Field(default="whole", json_schema_extra=FREE)
    """Under ZeRO-3: gather the LLM once per step and keep it whole while it writes, or, where it does not fit, layer by layer for
    each token."""


class TokenDistillation(ObjectiveSettings):
    """The student goes on with a response as the frozen LLM would: token-level divergence, cross-entropy, or both."""

    name: Literal["token_distillation"] = "token_distillation"
    kl_weight: float = Field(default=1.0, ge=0)
    """Weight of the divergence from the frozen LLM, which reads the teacher's prompt; with 0 there is no teacher. With
    `data.targets` it has told its likeliest tokens before (`mtllm-ds prepare teacher-targets --top-k`)."""
    nll_weight: float = Field(default=0.0, ge=0)
    """Weight of the cross-entropy of the response."""
    frozen_self: Literal["base", "start"] = "base"
    """Who the frozen LLM is: `base`, without any LoRA; `start`, with that of `model.start` (needs `model.merge_start_lora`)."""
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    """KL(teacher || student), KL(student || teacher), or between both and their mixture."""
    beta: float = Field(default=0.5, gt=0, lt=1)
    """`jsd`: the teacher's share of the mixture."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits of both sides in the divergence, which is multiplied by its square."""
    clip: float | None = Field(default=None, gt=0)
    """Most that one entry of the vocabulary may add to a token's divergence (0.05 in on-policy distillation across languages).
    Slower: it runs without the fused kernel."""
    layout: Literal["replace", "prepend"] = "replace"
    """Of a stack: the encoder's states in place of the prompt (LangBridge), or before the prompt in the LLM's ids (MindMerger)."""
    rollouts: Rollouts | None = None
    """On-policy: the student writes responses, the teacher judges them; null takes those of the data."""
    backend: Literal["auto", "triton", "chunked", "reference"] = Field(default="auto", json_schema_extra=FREE)
    """Form of the fused divergence; `reference` is the plain eager one."""

    built_by: ClassVar = "mtllm_ds.objectives.token_distillation:TokenDistillation"
    students: ClassVar = ("stacked", "llm")
    figures: ClassVar = {"loss": "lower", "nll": "lower", "kl": "lower"}
    optional_columns: ClassVar = ("student_prompt_ids", "sample_weight")
    trains_connector: ClassVar = True
    joins_rows: ClassVar = True

    @property
    def teachers(self) -> tuple[TeacherKind, ...]:  # type: ignore[override]
        return ("frozen_self", "cached") if self.kl_weight else ("none",)

    @property
    def next_tokens_at(self) -> float:
        return self.temperature

    @property
    def columns(self) -> tuple[str, ...]:
        return ("response_start", *(("student_prompt_ids",) if self.layout == "prepend" else ()))

    def columns_of(self, reader: Student) -> tuple[str, ...]:
        return ("response_start", "student_prompt_ids") if reader == "llm" else self.columns

    def longest_row(self, model: ModelSettings) -> int:
        own = super().longest_row(model)
        return sum(side.max_length for side in model.given.values()) if model.reader == "stacked" else own

    @property
    def teacher_keeps_start(self) -> bool:
        return self.frozen_self == "start"

    @property
    def only_under_stage_3(self) -> str | None:
        return "objective.rollouts.gather=layers" if self.rollouts and self.rollouts.gather == "layers" else None

    def mistakes(self, run: CommonSections) -> Iterator[str]:
        if self.rollouts is not None and (self.nll_weight or not self.kl_weight):
            yield (
                f"objective.nll_weight={self.nll_weight}: the student would learn by heart what it wrote itself "
                "(objective.rollouts); set it to 0, and objective.kl_weight above 0"
            )
        if self.rollouts is not None and run.training.compile:
            yield (
                "training.compile=layers: has no effect on what objective.rollouts writes but to compile it anew for each length; "
                "set it to false"
            )
        if self.rollouts is not None and run.model.llm is not None:
            yield from _too_long(self.rollouts, run.model.llm.max_length)
        if run.model.llm is not None and run.model.llm.bidirectional:
            yield (
                f"model.llm.bidirectional=true: objective.name={self.name} tells the next token, which an LLM that looks both ways "
                "has seen; set it to false"
            )
        if run.model.trainable != "lora":
            yield (
                f"model.trainable={run.model.trainable}: objective.name={self.name} keeps the LLM and its head as they are beside "
                "LoRA; set it to lora"
            )
        if self.kl_weight and self.teacher_keeps_start and not run.model.merge_start_lora:
            yield (
                "objective.frozen_self=start: without model.merge_start_lora the LoRA of model.start is what trains; set "
                "model.start and model.merge_start_lora=true, or frozen_self=base"
            )
        if not self.kl_weight + self.nll_weight:
            yield "objective.kl_weight=0: objective.nll_weight is 0 too, so that nothing trains; set one of them"
        if not self.kl_weight:
            kinds = ("frozen_self", "divergence", "beta", "temperature", "clip", "backend")
            yield from unread(self, "objective", kinds, "with objective.kl_weight=0")
            if self.selected_by == "kl":
                yield "objective.select_by=kl: objective.kl_weight=0 asks no teacher; select by nll"
        if run.data.targets is not None and self.kl_weight:
            yield from self._not_cached(run.data.targets)
        if self.divergence != "jsd":
            yield from unread(self, "objective", ("beta",), f"with objective.divergence={self.divergence}")
        if self.clip is not None:
            yield from unread(
                self, "objective", ("backend",), "beside objective.clip, which runs without the fused kernel"
            )
        if run.model.reader == "llm":
            yield from unread(self, "objective", ("layout",), "with model.reader=llm")

    def _not_cached(self, targets: str) -> Iterator[str]:
        """What a teacher that told its likeliest tokens beforehand cannot serve."""
        yield from unread(self, "objective", ("frozen_self",), f"with data.targets={targets}, which say who told them")
        if self.rollouts is not None:
            yield (
                f"data.targets={targets}: holds next tokens of the data's responses, and objective.rollouts lets the student write "
                "others; remove one of the two"
            )
        if self.divergence != "forward_kl":
            yield (
                f"data.targets={targets}: holds the teacher's likeliest tokens alone, which tell no objective.divergence="
                f"{self.divergence}; set it to forward_kl, or remove data.targets"
            )
        if self.clip is not None:
            yield (
                f"data.targets={targets}: holds the teacher's likeliest tokens, not all that objective.clip={self.clip} bounds; "
                "remove one of the two"
            )
        if self.temperature != 1.0 and self.selected_by == "kl":
            yield (
                f"objective.select_by=kl: data.targets={targets} tells nothing of temperature 1 beside objective.temperature="
                f"{self.temperature}; select by loss"
            )


def _too_long(rollouts: Rollouts, max_length: int) -> Iterator[str]:
    if rollouts.max_new_tokens >= max_length:
        yield (
            f"objective.rollouts.max_new_tokens={rollouts.max_new_tokens}: model.llm.max_length={max_length} leaves no room for a "
            "prompt beside it; lower it, or raise model.llm.max_length"
        )
