"""What every objective says of its settings; the built-in ones stand in `objectives.py`.

Of itself a class says:

    built_by    where its `Objective` stands, `module:Class`; imported when a run is built
    students    values of `model.reader` that it trains
    teachers    who can give its targets: `frozen_self` (the LLM itself, adapters off, beside the student), `cached`
                (the target set `data.targets`), or `none`
    figures     what validation reports and which way is better; the first picks the best checkpoint unless `select_by` does
    columns     further columns of the shards that it needs; `optional_columns` are read where they are there
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from mtllm_ds.config.section import FREE, Section
from mtllm_ds.config.sections import CommonSections, ModelName, ModelSettings

Student = Literal["stacked", "llm", "encoder"]
TeacherKind = Literal["frozen_self", "cached", "none"]
Better = Literal["lower", "higher"]


class TeacherModel(Section):
    """The teacher of one language; a plain name stands for one without further settings."""

    name: ModelName = Field(json_schema_extra=FREE)
    """Hub name, local folder or `package:` folder of a language model with its head, trained on that language. May move between a
    run and its resumption: the weights must be the same."""
    revision: str | None = Field(default=None, json_schema_extra=FREE)
    """Commit or tag on the hub."""
    trust_remote_code: bool = Field(default=False, json_schema_extra=FREE)


class BankSettings(NamedTuple):
    """One teacher per language."""

    models: Mapping[str, TeacherModel]
    """By FLORES-200 code"""
    on_device: int | None
    """Most of them on the device; None: all"""
    in_shares: bool
    """Whether ranks hold them between them"""
    min_coverage: float | None
    """Share of a language's tokens that a teacher with another vocabulary must have; None: all have the student's vocabulary"""


class ObjectiveSettings(Section):
    """What all objectives share; a subclass names itself and adds its own settings."""

    name: str
    select_by: str | None = Field(default=None, json_schema_extra=FREE)
    """Validation figure that picks the best checkpoint; null takes the objective's first."""

    built_by: ClassVar[str]
    students: ClassVar[tuple[Student, ...]]
    teachers: ClassVar[tuple[TeacherKind, ...]] = ("none",)
    figures: ClassVar[Mapping[str, Better]] = {"loss": "lower"}
    optional_columns: ClassVar[tuple[str, ...]] = ()
    trains_connector: ClassVar[bool] = False
    """Whether a stack's connector trains unless `model.connector.trainable` says."""
    trains_lm_head: ClassVar[bool] = False
    """Whether the language model trains with its head; such a run is exported as a model of transformers."""
    answers_a_task: ClassVar[bool] = False
    """Whether it has a head on the task of the shards."""
    packs: ClassVar[bool] = True
    """Whether it takes cells of packed samples (token budgets)."""
    joins_rows: ClassVar[bool] = False
    """Whether rows of the LLM are put together in training (states, prompt, response), so that no index tells their lengths."""
    teaches_direction: ClassVar[bool] = False
    """Whether it is what makes a causal LLM look both ways."""
    systems: ClassVar[Mapping[Student, str]] = {}
    """What tables call a model that it trained, by `model.reader`."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that every sample must bring."""
        return ()

    def columns_of(self, reader: Student) -> tuple[str, ...]:
        """`columns`, and further ones that only a student of this kind reads."""
        return self.columns

    def longest_row(self, model: ModelSettings) -> int:
        """Most tokens that the LLM reads of one sample."""
        return max(side.max_length for side in model.given.values())

    @property
    def teacher_run(self) -> str | None:
        """Run or export whose head and task the objective takes over."""
        return None

    @property
    def bank(self) -> BankSettings | None:
        """Models that teach a language each (`teachers/bank.py`), where it has some: those of its field `teacher_of`."""
        return None

    @property
    def next_tokens_at(self) -> float | None:
        """Temperature of the next tokens that its cached teacher tells; None where that gives vectors."""
        return None

    @property
    def starts_at_teacher(self) -> bool:
        """Whether the student's LoRA starts as that run's."""
        return False

    @property
    def teacher_keeps_start(self) -> bool:
        """Whether the frozen LLM that teaches has the LoRA of `model.start`."""
        return False

    @property
    def asks_teacher_ahead(self) -> bool:
        """Whether its teacher reads all of a step's texts before the first forward, so that it cannot go beside the student."""
        return False

    @property
    def draws_dropout(self) -> bool:
        """Whether it adds dropout of its own."""
        return False

    @property
    def only_under_stage_3(self) -> str | None:
        """A setting as it stands that has no effect but under ZeRO-3, where there is one."""
        return None

    @property
    def selected_by(self) -> str:
        """The figure that picks the best checkpoint, its default resolved."""
        return self.select_by or next(iter(self.figures))

    def mistakes(self, run: CommonSections) -> Iterator[str]:
        """What of these settings and the others does not fit together, a line each."""
        yield from ()
