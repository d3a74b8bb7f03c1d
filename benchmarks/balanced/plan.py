"""The steps of the balanced benchmark, from text to scores: which commands run, on what, after what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.balanced.budgets import Budget
from benchmarks.balanced.students import STUDENTS, Place, Student, head_training, student_training, teacher_training
from benchmarks.steps import Command, Step, mtllm, python
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.evaluation.items.tasks import load_task

TASK = "lohelp_sample"
_PROCESS_SECONDS = 12.0
"""Of a command that imports torch"""
_TEACHER_COST = 1.4
"""A step with teachers, in steps without"""


@dataclass
class Plan:
    """Steps of one run, each after what it needs; the three seeds one after the other."""

    place: Place
    budget: Budget
    text: Path
    steps: list[Step] = field(default_factory=list)

    def build(self) -> Plan:
        self._add_data()
        for seed in self.budget.seeds:
            self._add_teachers(seed)
            for student in STUDENTS:
                self._add_student(student, seed)
        return self

    def folder(self, step: str) -> Path:
        return self.place.root / step

    def teacher_data(self, language: str, data: str) -> str:
        """What the teacher of a language has read: of a low-resource one there is only one kind."""
        return "train" if language in self.budget.low else data

    def scores(self, step: str) -> Path:
        """Where `evaluate masked` left what it found of a step's model."""
        return self.folder(step) / "scores"

    def transfer(self, student: str, seed: int) -> str:
        """Name of the step that trains and asks a head."""
        return f"transfer/{student}/seed-{seed}"

    def task_languages(self) -> list[str]:
        """Languages of the task that students know."""
        return [code for code in load_task(TASK).languages if code in self.budget.languages]

    def student_steps(self, student: Student) -> int:
        """Steps of a student: lines of balanced text have another length, and all students read as many tokens (asked once there
        are shards)."""
        steps = self.budget.student_steps
        if student.data == "balanced":
            steps = round(steps * self._tokens_per_line("train") / self._tokens_per_line("balanced"))
        return steps + (self.budget.extra_steps if student.extra_steps else 0)

    def _tokens_per_line(self, data: str) -> float:
        counts = Manifest.load(str(self.place.shards(data))).statistics.values()
        return sum(own["llm_tokens"] for own in counts) / sum(own["samples"] for own in counts)

    def _add_data(self) -> None:
        budget, tokenizer = self.budget, self.place.tokenizer
        data = python(
            "-m",
            "benchmarks.balanced.data",
            "--text",
            self.text,
            "--budget",
            budget.name,
            "--output",
            self.folder("data"),
        )
        self._add("data", [data], seconds=10)
        trained = mtllm(
            "prepare", "tokenizer", "--input", *self._files("train", budget.languages), "--vocab-size", budget.vocab_size,
            "--output", tokenizer,
        )  # fmt: skip
        self._add("tokenizer", [trained], ["data"], 20)
        shards = [self._shards(name, name, budget.languages) for name in ("train", "balanced", "valid")]
        shards += [self._shards("valid", f"valid_{code}", (code,)) for code in budget.languages]
        self._add("shards", shards, ["tokenizer"], _PROCESS_SECONDS * len(shards))
        tasks = [
            mtllm(
                "prepare", "task", "--task", TASK, "--split", split, "--llm", tokenizer, "--max-length", budget.max_length,
                "--output", self.folder("task") / split,
            )
            for split in ("train", "valid")
        ]  # fmt: skip
        self._add("task", tasks, ["tokenizer"], 2 * _PROCESS_SECONDS)

    def _add_teachers(self, seed: int) -> None:
        for data in ("train", "balanced"):
            for code in self.budget.languages:
                if self.teacher_data(code, data) != data:
                    continue
                step = self.place.teacher(code, data, seed)
                training = teacher_training(self.budget, self.place, step, code, data, seed)
                self._add_training(step, training, self._scored(step, (code,)), ["shards"], self.budget.teacher_steps)

    def _add_student(self, student: Student, seed: int) -> None:
        budget, needs = self.budget, ["shards"]
        step = self.place.student(student.name, seed)
        teachers: dict[str, Path] = {}
        if student.teachers is not None:
            for code in budget.languages:
                own = self.place.teacher(code, self.teacher_data(code, student.teachers), seed)
                needs.append(own)
                teachers[code] = self.place.model(own)

        def training() -> tuple[list[str], int]:
            steps = self.student_steps(student)
            return student_training(budget, self.place, step, student, teachers, seed, steps), steps

        steps = budget.student_steps + (budget.extra_steps if student.extra_steps else 0)
        cost = steps * (_TEACHER_COST if teachers else 1)
        self._add_training(step, training, self._scored(step, budget.languages), needs, cost)
        self._add_transfer(student, seed, step)

    def _add_transfer(self, student: Student, seed: int, trained: str) -> None:
        step = self.transfer(student.name, seed)
        model = self.place.model(trained)
        head = head_training(self.budget, self.place, step, model, self.folder("task"), seed)
        asked = mtllm(
            "evaluate", "model", "--model", self.place.model(step), "--task", TASK, "--languages", *self.task_languages(),
            "--system", student.name, "--seed", seed, "--output", self.folder(step) / "answers",
            *(["--limit", self.budget.test_lines] if self.budget.name == "smoke" else []),
        )  # fmt: skip
        self._add_training(step, head, asked, [trained, "task"], self.budget.transfer_steps, optional=True)

    def _add_training(
        self,
        step: str,
        training: list[str] | Callable[[], tuple[list[str], int]],
        then: Command,
        needs: Sequence[str],
        num_steps: float,
        optional: bool = False,
    ) -> None:
        """Train, from the last checkpoint where one is there, export, and what comes after it.

        A function gives the arguments and the step to export once the step starts; otherwise the best one is exported.
        """
        run = self.place.run(step)

        def commands() -> list[Command]:
            resume = ["--resume"] if any((run / "checkpoints").glob("step_*")) else []
            arguments, last = training() if callable(training) else (training, None)
            export = mtllm("export", run, self.place.model(step), *(["--step", last] if last is not None else []))
            return [mtllm("train", *arguments, *resume), export, then]

        seconds = 3 * _PROCESS_SECONDS + num_steps * self.budget.seconds_per_step
        self.steps.append(Step(step, commands, tuple(needs), seconds, optional))

    def _scored(self, step: str, languages: Sequence[str]) -> Command:
        return mtllm(
            "evaluate", "masked", "--model", self.place.model(step), "--input", *self._files("test", languages),
            "--training-text", *self._files("train", languages), "--max-length", self.budget.max_length, "--passes",
            self.budget.passes, "--device", self.place.device, "--output", self.scores(step),
        )  # fmt: skip

    def _shards(self, split: str, name: str, languages: Sequence[str]) -> Command:
        return mtllm(
            "prepare", "shards", "--input", *self._files(split, languages), "--llm", self.place.tokenizer, "--max-length",
            self.budget.max_length, "--block-samples", 64, "--num-workers", 1, "--output", self.place.shards(name),
        )  # fmt: skip

    def _files(self, split: str, languages: Sequence[str]) -> list[str]:
        return [f"{code}={self.folder('data') / split / f'{code}.jsonl'}" for code in languages]

    def _add(self, name: str, commands: Sequence[Command], needs: Sequence[str] = (), seconds: float = 15) -> None:
        self.steps.append(Step(name, commands, tuple(needs), seconds))
