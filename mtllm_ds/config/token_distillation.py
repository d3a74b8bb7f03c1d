"""Settings of `token_distillation`: one objective for generative stacks, answers in other languages, and what follows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from mtllm_ds.config.objective import ObjectiveSettings, Student, TeacherKind
from mtllm_ds.config.section import unread
from mtllm_ds.config.sections import CommonSections, ModelSettings


class TokenDistillation(ObjectiveSettings):
    """The student goes on with a response as the frozen LLM would: token-level divergence, cross-entropy, or both."""

    name: Literal["token_distillation"] = "token_distillation"
    kl_weight: float = Field(default=1.0, ge=0)
    """Weight of the divergence from the frozen LLM, which reads the teacher's prompt; with 0 there is no teacher."""
    nll_weight: float = Field(default=0.0, ge=0)
    """Weight of the cross-entropy of the response."""
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
    backend: Literal["auto", "triton", "chunked", "reference"] = "auto"
    """Form of the fused divergence; `reference` is the plain eager one."""

    built_by: ClassVar = "mtllm_ds.objectives.token_distillation:TokenDistillation"
    students: ClassVar = ("stacked", "llm")
    figures: ClassVar = {"loss": "lower", "nll": "lower", "kl": "lower"}
    optional_columns: ClassVar = ("student_prompt_ids", "sample_weight")
    trains_connector: ClassVar = True

    @property
    def teachers(self) -> tuple[TeacherKind, ...]:  # type: ignore[override]
        return ("frozen_self",) if self.kl_weight else ("none",)

    @property
    def columns(self) -> tuple[str, ...]:
        return ("response_start", *(("student_prompt_ids",) if self.layout == "prepend" else ()))

    def columns_of(self, reader: Student) -> tuple[str, ...]:
        return ("response_start", "student_prompt_ids") if reader == "llm" else self.columns

    def longest_row(self, model: ModelSettings) -> int:
        own = super().longest_row(model)
        return sum(side.max_length for side in model.given.values()) if model.reader == "stacked" else own

    def mistakes(self, run: CommonSections) -> Iterator[str]:
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
        if not self.kl_weight + self.nll_weight:
            yield "objective.kl_weight and objective.nll_weight are both 0: set one of them"
        if not self.kl_weight:
            kinds = ("divergence", "beta", "temperature", "clip", "backend")
            yield from unread(self, "objective", kinds, "with objective.kl_weight=0")
            if self.selected_by == "kl":
                yield "objective.select_by=kl: objective.kl_weight=0 asks no teacher; select by nll"
        if self.divergence != "jsd":
            yield from unread(self, "objective", ("beta",), f"with objective.divergence={self.divergence}")
        if self.clip is not None:
            yield from unread(
                self, "objective", ("backend",), "beside objective.clip, which runs without the fused kernel"
            )
        if run.model.reader == "llm":
            yield from unread(self, "objective", ("layout",), "with model.reader=llm")
