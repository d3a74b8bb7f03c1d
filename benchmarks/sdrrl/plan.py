"""The steps of the SDRRL benchmark, from public models to scores: which commands run, on what, after what."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.sdrrl.budgets import Budget
from benchmarks.sdrrl.rows import BY_NAME, UNTOUCHED, WEIGHTS, Pairs, Row, seeds_of
from benchmarks.step_options import attention_on
from benchmarks.steps import Command, Step, mtllm, python

_PROCESS_SECONDS = 12.0
"""Of a command that imports torch and reads the model"""
_SAMPLE_TOKENS, _LINE_TOKENS = 150, 165
"""Of a pair, and of a held-out line in both readings; for the plan only"""
_NUM_INSTRUCTION_TRIES = 1.5
"""Samples for each self-instruction that can be used, for the plan only"""


@dataclass
class Plan:
    """Steps of one run, each after what it needs; the main rows come first, those of the first seed before the others."""

    root: Path
    budget: Budget
    text: Path
    models: Path
    device: str
    precision: str
    steps: list[Step] = field(default_factory=list)

    def build(self) -> Plan:
        self._add_material()
        rows = [BY_NAME[name] for name in self.budget.rows]
        main = [row for row in rows if row.is_main]
        for seed in self.budget.seeds:
            for row in main:
                if seed in seeds_of(row, self.budget.seeds):
                    self._add_row(row, seed)
        for row in rows:
            if not row.is_main:
                self._add_row(row, self.budget.seeds[0])
        return self

    @property
    def llm(self) -> Path:
        return self.models / "smollm2"

    @property
    def num_threads(self) -> int:
        """Of each job: on CPU all jobs together take the cores."""
        return max(1, (os.cpu_count() or 1) // self.budget.num_jobs)

    def folder(self, step: str) -> Path:
        return self.root / step

    def trained(self, row: str, seed: int) -> str:
        """Name of the step that trains a row."""
        return f"train/{row}/seed-{seed}"

    def scored(self, row: str, seed: int) -> str:
        """Name of the step that asks a row's model."""
        return f"scores/{row}/seed-{seed}"

    def run(self, row: str, seed: int) -> Path:
        """A training run."""
        return self.folder(self.trained(row, seed)) / "run"

    def found(self, row: str, seed: int) -> Path:
        """Where a row's scores lie."""
        return self.folder(self.scored(row, seed)) / "found"

    def overrides(self, row: Row, seed: int) -> list[str]:
        """Settings of a training that the recipe leaves to the budget."""
        budget = self.budget
        assert row.pairs is not None
        second = row.start is not None
        steps = budget.on_policy_steps if second else budget.steps
        rate = budget.on_policy_learning_rate if second else budget.learning_rate
        shards = self.folder(f"shards/{row.pairs.name}")
        lanes = min(8, budget.samples_per_step)
        own = [
            f"run.output_dir={self.run(row.name, seed)}", f"run.seed={seed}", f"run.max_steps={steps}",
            f"run.save_every={max(1, steps // 4)}", f"run.validate_every={max(1, steps // 4)}",
            f"run.log_every={max(1, steps // 20)}", "run.tensorboard=false", f"model.llm.name={self.llm}",
            f"model.llm.max_length={budget.max_length}", f"data.train={shards / 'train'}", f"data.lanes={lanes}",
            f"data.samples_per_cell={budget.samples_per_step // lanes}",
            f"data.cells_per_forward={budget.samples_per_forward * lanes // budget.samples_per_step}",
            "model.lora.dropout=0", f"optim.learning_rate={rate}", f"training.precision={self.precision}",
            f"model.attention={attention_on(self.device)}", "training.deepspeed=zero2", *row.overrides,
        ]  # fmt: skip
        if row.start is not None:
            own += [
                f"model.start={self.run(row.start, seed)}",
                f"objective.rollouts.max_new_tokens={budget.on_policy_tokens}",
            ]
            own += [f"data.validation={shards / 'valid'}", "data.validation_samples=16"]
        return own

    def _add_material(self) -> None:
        budget, text = self.budget, self.folder("text")
        write = python("-m", "benchmarks.public_models.write", "--out", self.models, "--models", "smollm2")
        self._add("models", [write], [], 120)
        given = ["--budget", budget.name]
        read = python("-m", "benchmarks.sdrrl.text", "--text", self.text, *given, "--output", text)
        self._add("text", [read], [], 15)
        asked = ["--instructions", text / "instructions.jsonl"]
        answers = (budget.num_text + budget.num_valid + budget.num_text_questions) * budget.answer_tokens
        own = self._sdrrl("own", [*asked, *self._written()], ["code_switched"])
        self._add("answers/own", [own], ["models", "text"], self._writing(answers))
        tries = budget.num_self * _NUM_INSTRUCTION_TRIES * budget.instruction_tokens
        by_itself = ["--self-instructions", budget.num_self, "--instruction-tokens", budget.instruction_tokens]
        of_self = self._sdrrl("self", [*by_itself, *self._written()], ["code_switched"])
        self._add("answers/self", [of_self], ["models"], self._writing(tries + budget.num_self * budget.answer_tokens))
        reference = self._sdrrl("reference", [*asked, "--gold-field", "gold"], [])
        self._add("answers/reference", [reference], ["models", "text"], self._writing(0))
        self._add_pairs("pairs", self._main_sets())

    def _main_sets(self) -> list[str]:
        """Sets of pairs that a main row reads."""
        rows = [BY_NAME[name] for name in self.budget.rows]
        return list(dict.fromkeys(row.pairs.name for row in rows if row.is_main and row.pairs is not None))

    def paired(self, pairs: Pairs) -> str:
        """Name of the step that makes a set: those of the main rows in one, each other in its own, which may fail alone."""
        return "pairs" if pairs.name in self._main_sets() else f"more_pairs/{pairs.name}"

    def _add_pairs(self, name: str, sets: Sequence[str]) -> None:
        folders = [part for one in ("own", "self", "reference") for part in (f"--{one}", self._answers(one))]
        command = python(
            "-m", "benchmarks.sdrrl.material", *folders, "--text", self.folder("text"), "--budget", self.budget.name,
            "--sets", *sets, "--output", self.folder(name),
        )  # fmt: skip
        needs = ("answers/own", "answers/self", "answers/reference")
        self.steps.append(Step(name, [command], needs, 15, optional=name != "pairs"))

    def _sdrrl(self, name: str, answers: Sequence[object], types: Sequence[str]) -> Command:
        """`prepare sdrrl` in a folder of its own; its pairs are made anew downstream, for every row."""
        budget = self.budget
        lexicons = [f"{code}=translator" for code in budget.languages] if types else []
        return mtllm(
            "prepare", "sdrrl", "--llm", self.llm, "--precision", self.precision, *answers,
            "--translator", *(f"{code}={command}" for code, command in budget.translators.items()),
            "--pairs", *(f"{kind}=1" for kind in WEIGHTS if kind != "code_switched" or types),
            *(["--lexicon", *lexicons] if lexicons else []), "--output", self._answers(name),
        )  # fmt: skip

    def _written(self) -> list[object]:
        return ["--max-new-tokens", self.budget.answer_tokens, "--keep-sentences", "--batch-size", 64]

    def _answers(self, name: str) -> Path:
        return self.folder(f"answers/{name}") / "data"

    def _writing(self, num_tokens: float) -> float:
        return 6 * _PROCESS_SECONDS + num_tokens / self.budget.write_tokens_per_second

    def _add_row(self, row: Row, seed: int) -> None:
        needs = ["pairs"]
        if row.pairs is not None:
            self._add_shards(row.pairs)
            needs = [self.trained(row.name, seed), self.scored(UNTOUCHED, self.budget.seeds[0])]
            self._add_training(row, seed)
        budget = self.budget
        lines = budget.num_lines * (len(budget.languages) + 2)
        answers = budget.num_questions * (len(budget.languages) + 1) * budget.answer_tokens
        seconds = lines * _LINE_TOKENS / budget.read_tokens_per_second + answers / budget.write_tokens_per_second
        name = self.scored(row.name, seed)
        self._add(name, [self._scoring(row, seed)], needs, _PROCESS_SECONDS + seconds, row)

    def _add_shards(self, pairs: Pairs) -> None:
        name, paired = f"shards/{pairs.name}", self.paired(pairs)
        if any(step.name == name for step in self.steps):
            return
        if paired != "pairs":
            self._add_pairs(paired, [pairs.name])
        parts = {"train": f"{pairs.name}.jsonl"} | ({"valid": f"{pairs.name}.valid.jsonl"} if pairs.validated else {})
        commands = [
            mtllm(
                "prepare", "dialogues", "--input", self.folder(paired) / file, "--llm", self.llm, "--max-length",
                self.budget.max_length, "--block-samples", 32, "--num-workers", 1, "--output", self.folder(name) / part,
            )
            for part, file in parts.items()
        ]  # fmt: skip
        self.steps.append(Step(name, commands, (paired,), _PROCESS_SECONDS * len(parts), paired != "pairs"))

    def _add_training(self, row: Row, seed: int) -> None:
        budget, run = self.budget, self.run(row.name, seed)
        assert row.pairs is not None
        needs = [f"shards/{row.pairs.name}", *([] if row.start is None else [self.trained(row.start, seed)])]

        def commands() -> list[Command]:
            resume = ["--resume"] if any((run / "checkpoints").glob("step_*")) else []
            train = mtllm("train", "--recipe", row.recipe, *self.overrides(row, seed), *resume)
            return [train, mtllm("export", run, self._model(row, seed))]

        samples = budget.samples_per_step * (budget.steps if row.start is None else budget.on_policy_steps)
        seconds = samples * _SAMPLE_TOKENS * (1.35 if row.overrides else 1) / budget.train_tokens_per_second
        if row.start is not None:
            seconds = 1.6 * seconds + samples * budget.on_policy_tokens / (0.6 * budget.write_tokens_per_second)
        optional = not row.is_main
        self.steps.append(
            Step(self.trained(row.name, seed), commands, tuple(needs), 2.5 * _PROCESS_SECONDS + seconds, optional)
        )

    def _scoring(self, row: Row, seed: int) -> Command:
        model = []
        if row.pairs is not None:
            known = self.found(UNTOUCHED, self.budget.seeds[0])
            model = ["--model", self._model(row, seed), "--untouched", known]
        return python(
            "-m", "benchmarks.sdrrl.evaluate", "--llm", self.llm, *model, "--text", self.folder("text"), "--questions",
            self.folder("pairs") / "questions.jsonl", "--budget", self.budget.name, "--precision", self.precision,
            "--output", self.found(row.name, seed),
        )  # fmt: skip

    def _model(self, row: Row, seed: int) -> Path:
        return self.folder(self.trained(row.name, seed)) / "model"

    def _add(
        self, name: str, commands: Sequence[Command], needs: Sequence[str], seconds: float, row: Row | None = None
    ) -> None:
        optional = row is not None and not row.is_main
        self.steps.append(Step(name, commands, tuple(needs), seconds, optional))
