"""Settings of balanced multilingual training, with one monolingual teacher per language or without any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from mtllm_ds.config.names import is_code_unpinned
from mtllm_ds.config.objective import BankSettings, ObjectiveSettings, TeacherModel
from mtllm_ds.config.section import FREE, Section, unread
from mtllm_ds.config.sections import CommonSections
from mtllm_ds.errors import UserError
from mtllm_ds.languages import check_language

Share = Annotated[float, Field(gt=0, lt=1)]
_MASKING = ("mask_share", "mask_token_share", "random_token_share", "whole_words")
_OF_TEACHERS = ("alpha", "temperature", "teachers_on_device", "shard_teachers", "min_coverage")


class MaskingPhase(Section):
    """A part of the run with a masking rate of its own."""

    steps: float = Field(gt=0, le=1)
    """Share of `run.max_steps`."""
    mask_share: Share


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _by_code(value: Any) -> Any:
    """Languages by their FLORES-200 code, whatever they were called. Null is none, in whole or for a language."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        return value
    found: dict[str, Any] = {}
    for language, teacher in value.items():
        try:
            code = check_language(str(language))
        except UserError as error:
            raise ValueError(str(error)) from error
        if code in found:
            raise ValueError(f"two teachers for {code} ({language} is the same language); name one")
        if teacher is not None:
            found[code] = teacher
    return found


def _phases(value: Any) -> Any:
    """A number, and pairs of numbers, as phases."""
    if not isinstance(value, list | tuple):
        return (MaskingPhase(steps=1.0, mask_share=value),) if isinstance(value, int | float) else value
    return tuple(
        {"steps": phase[0], "mask_share": phase[1]} if isinstance(phase, list | tuple) and len(phase) == 2 else phase
        for phase in value
    )


def _whole_run(phases: tuple[MaskingPhase, ...]) -> tuple[MaskingPhase, ...]:
    if abs(sum(phase.steps for phase in phases) - 1) > 1e-6:
        raise ValueError("the phases' shares of the steps do not add up to 1; mend them")
    return phases


class BalancedTeachers(ObjectiveSettings):
    """A multilingual masked language model learns from one monolingual teacher per language:

        alpha T^2 KL(teacher || student) + (1 - alpha) cross-entropy, mean over masked tokens

    Without teachers it is masked-language-model training. A causal student (`model.llm.bidirectional=false`) learns to tell every
    next token in place of masked ones. The head of `model.llm` trains too; a head that is tied to the input embeddings trains
    where those do.

    Source: Limisiewicz, Malkin and Stanovsky, SIGTYP 2023, arXiv 2210.07135.
    """

    name: Literal["balanced_teachers"] = "balanced_teachers"
    teacher_of: Annotated[dict[str, Annotated[TeacherModel, BeforeValidator(_named)]], BeforeValidator(_by_code)] = (
        Field(default={})
    )
    """Language code to its teacher, as in `objective.teacher_of.deu_Latn=runs/teacher_deu`; one for every language of the shards,
    or none at all. Null leaves out what a recipe says."""
    alpha: float = Field(default=0.5, gt=0, le=1)
    """Weight of the teachers beside the text itself."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits of both sides in the divergence, which is multiplied by its square."""
    teachers_on_device: int | None = Field(default=None, gt=0, json_schema_extra=FREE)
    """Most teachers in the device's memory; the others wait in the host's. Null keeps all there, with `shard_teachers` one. Losses
    are the same; with two or more, while a forward runs, the teachers of the next one are fetched. Beside them lie the heads
    of a forward's teachers until it has its loss."""
    shard_teachers: bool = Field(default=False, json_schema_extra=FREE)
    """Every rank holds its share of each teacher's weights, gathered for the forwards that need it; teachers that are not on the
    device then cost their share of memory there, and nothing is fetched ahead."""
    min_coverage: float | None = Field(default=None, ge=0, le=1)
    """Let teachers have vocabularies of their own: a map of pieces leads from the student's tokens to theirs, and what only one
    side has counts as one bucket. Refused where a teacher has less than this share of its language's tokens. Null asks for one
    vocabulary."""
    mask_share: Annotated[tuple[MaskingPhase, ...], BeforeValidator(_phases), AfterValidator(_whole_run)] = (
        MaskingPhase(steps=1.0, mask_share=0.15),
    )
    """Share of a text's tokens that is masked, rounded, at least one: a number, or phases of [share of the steps, share of the
    tokens], such as [[.5, .3], [.3, .15], [.2, .05]]. Validation takes the last one's."""
    mask_token_share: float = Field(default=0.8, ge=0, le=1)
    """Of the masked tokens, the share that the student reads as the mask token."""
    random_token_share: float = Field(default=0.1, ge=0, le=1)
    """Of the masked tokens, the share that it reads as a random token; the rest it reads as they are."""
    whole_words: bool = False
    """Mask the pieces of a word together (of a longer word, eight at a time): `mask_share` of the tokens in the mean, of a text in
    one step some more or fewer."""

    built_by: ClassVar = "mtllm_ds.objectives.balanced_teachers:BalancedTeachers"
    students: ClassVar = ("llm",)
    trains_lm_head: ClassVar = True
    figures: ClassVar = {"nll": "lower", "loss": "lower", "kl": "lower", "accuracy": "higher"}

    @property
    def bank(self) -> BankSettings | None:
        return (
            BankSettings(
                self.teacher_of,
                self.teachers_on_device or (1 if self.shard_teachers else None),
                self.shard_teachers,
                self.min_coverage,
            )
            if self.teacher_of
            else None
        )

    def mask_share_at(self, step_share: float) -> float:
        """The masking rate once that share of the run's steps is made."""
        end = 0.0
        for phase in self.mask_share:
            end += phase.steps
            if step_share < end - 1e-9:
                return phase.mask_share
        return self.mask_share[-1].mask_share

    def mistakes(self, run: CommonSections) -> Iterator[str]:
        if self.mask_token_share + self.random_token_share > 1 + 1e-9:
            yield (
                f"objective.mask_token_share={self.mask_token_share}: above 1 together with objective.random_token_share; lower one"
            )
        if not self.teacher_of:
            yield from unread(self, "objective", _OF_TEACHERS, "without objective.teacher_of")
            if self.selected_by == "kl":
                yield "objective.select_by=kl: without objective.teacher_of there is none; set it to nll"
        if run.model.llm is not None and not run.model.llm.bidirectional:
            yield from unread(
                self, "objective", _MASKING, "with model.llm.bidirectional=false, where nothing is masked"
            )
        for language, teacher in self.teacher_of.items():
            if teacher.trust_remote_code and is_code_unpinned(teacher.name, teacher.revision):
                yield (
                    f"objective.teacher_of.{language}.revision={teacher.revision or 'null'}: code from the hub runs at one commit "
                    "only; set it to the 40 digits of one that you have read"
                )
        if run.model.start is not None:
            yield (
                f"model.start={run.model.start}: objective.name=balanced_teachers takes its head from model.llm.name; "
                "export that run and name the folder there"
            )
