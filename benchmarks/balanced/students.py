"""The six students: balanced data or not, teachers or not, and two controls. What is trained is what `mtllm-ds train` gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.balanced.budgets import Budget
from benchmarks.step_options import attention_on


@dataclass(frozen=True)
class Student:
    """One way to train a multilingual student."""

    name: str
    title: str
    data: str
    """Shards it reads: `train`, every language as much as it has; `balanced`, as many lines of each"""
    teachers: str | None = None
    """Shards that its teachers have read"""
    extra_steps: bool = False
    """Whether it trains on for as long as teachers would have cost"""


STUDENTS = (
    Student("plain", "all text", "train"),
    Student("balanced", "balanced text", "balanced"),
    Student("taught", "all text, teachers", "train", "train"),
    Student("balanced_taught", "balanced text, teachers", "balanced", "train"),
    Student("few_line_teachers", "control: balanced text, teachers of balanced text", "balanced", "balanced"),
    Student("extra_steps", "control: all text, the teachers' compute as steps", "train", extra_steps=True),
)
CLAIMED, RIVAL = "balanced_taught", "plain"
_TEACHER_SEEDS = 1000
"""Is added to a teacher's seed: a student must not start from its teachers' own first weights."""


@dataclass(frozen=True)
class Place:
    """Where a run's parts are, and what they run on."""

    root: Path
    device: str
    precision: str

    def shards(self, name: str) -> Path:
        return self.root / "shards" / name

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer" / "tokenizer"

    def teacher(self, language: str, data: str, seed: int) -> str:
        """Name of the step that trains a teacher."""
        return f"teachers/{data}/{language}/seed-{seed}"

    def student(self, name: str, seed: int) -> str:
        """Name of the step that trains a student."""
        return f"students/{name}/seed-{seed}"

    def model(self, step: str) -> Path:
        """The exported model of a training step."""
        return self.root / step / "model"

    def run(self, step: str) -> Path:
        return self.root / step / "run"


def teacher_training(budget: Budget, place: Place, step: str, language: str, data: str, seed: int) -> list[str]:
    """Arguments of `mtllm-ds train` for the teacher of a language."""
    weights = f"{{rule: explicit, weights: {{{language}: 1}}}}"
    own = [f"data.train={place.shards(data)}", f"data.validation={place.shards(f'valid_{language}')}"]
    own += [f"data.mixing={weights}"]
    seed += _TEACHER_SEEDS
    return ["--recipe", "monolingual_teacher", *own, *_common(budget, place, step, seed, budget.teacher_steps)]


def student_training(
    budget: Budget, place: Place, step: str, student: Student, teachers: Mapping[str, Path], seed: int, steps: int
) -> list[str]:
    """Arguments of `mtllm-ds train` for a student; `teachers` are the models by language, none for one without."""
    rule = "balanced" if student.data == "balanced" else "proportional"
    own = [f"data.train={place.shards(student.data)}", f"data.validation={place.shards('valid')}"]
    own += [f"data.mixing={{rule: {rule}}}"]
    if teachers:
        named = yaml.safe_dump(
            {code: str(path) for code, path in teachers.items()}, default_flow_style=True, width=10**6
        )
        own += [
            f"objective.teacher_of={named.strip()}", f"objective.alpha={budget.alpha}",
            f"objective.temperature={budget.temperature}", "run.validate_at_start=true",
        ]  # fmt: skip
    # One recipe for all, so that students differ in nothing but what is named here.
    return ["--recipe", "monolingual_teacher", *own, *_common(budget, place, step, seed, steps)]


def head_training(budget: Budget, place: Place, step: str, student: Path, task: Path, seed: int) -> list[str]:
    """Arguments of `mtllm-ds train` for a head on a student, tuned on English labels."""
    often = max(1, budget.transfer_steps // 4)
    return [
        "--recipe", "task_tuning", "model.encoder=null", f"model.llm.name={student}", "model.llm.bidirectional=true",
        f"model.llm.max_length={budget.max_length}", f"data.train={task / 'train'}", f"data.validation={task / 'valid'}",
        f"run.output_dir={place.run(step)}", f"run.seed={seed}", f"run.max_steps={budget.transfer_steps}",
        f"run.validate_every={often}", f"run.save_every={often}", "run.keep_checkpoints=1", "run.tensorboard=false",
        "model.trainable=all", *_engine(place),
    ]  # fmt: skip


def _common(budget: Budget, place: Place, step: str, seed: int, steps: int) -> Sequence[str]:
    often = max(1, steps // 4)
    lanes = min(8, budget.lines_per_step)
    model = yaml.safe_dump(dict(budget.model), default_flow_style=True, width=10**6).strip()
    return [
        f"run.output_dir={place.run(step)}", f"run.seed={seed}", f"run.max_steps={steps}", f"run.validate_every={often}",
        f"run.save_every={often}", "run.keep_checkpoints=1", "run.tensorboard=false",
        f"model.llm.name={place.tokenizer}", f"model.llm.config={model}", f"model.llm.max_length={budget.max_length}",
        f"data.lanes={lanes}", f"data.samples_per_cell={budget.lines_per_step // lanes}", f"data.cells_per_forward={lanes}",
        "data.num_workers=0", f"objective.mask_share={budget.mask_share}", f"optim.learning_rate={budget.learning_rate}",
        *_engine(place),
    ]  # fmt: skip


def _engine(place: Place) -> list[str]:
    # One rank has nothing to shard.
    return [
        f"model.attention={attention_on(place.device)}", f"training.precision={place.precision}",
        "training.deepspeed=ds_configs/zero2.json",
    ]  # fmt: skip
