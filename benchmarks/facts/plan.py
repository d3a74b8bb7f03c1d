"""The steps of the facts benchmark: the LLM in English on one half of the countries, then on the other, then every language."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from benchmarks.facts.asking import FORMS
from benchmarks.facts.budgets import Budget
from benchmarks.facts.choosing import Choice, Rows, choose, kinds_used
from benchmarks.facts.templates import KINDS
from benchmarks.steps import Command, Step, python
from mtllm_ds.atomic import sha256_file
from mtllm_ds.languages import ENGLISH

CHOOSING = "choosing"
LLM = "llm"
_READABLE = "readable.json"
_PROCESS_SECONDS = 20.0
"""Of a command that imports torch, makes the questions and reads a model"""
_CHECK_SECONDS = 60.0
_NUM_QUESTIONS = 60
"""Of a kind, where a budget sets no limit; for the plan only"""


@dataclass
class Plan:
    """Steps of one run, each after what it needs."""

    root: Path
    budget: Budget
    precision: str
    device: str
    llm: str
    models: Path | None = None
    """Where the public models are to be written first, if any"""
    stack: Path | None = None
    """An export"""
    steps: list[Step] = field(default_factory=list)

    def build(self) -> Plan:
        before = []
        if self.models is not None:
            self._add("models", [python("-m", "benchmarks.public_models.write", "--out", self.models)], [], 120)
            before = ["models"]
        if self.stack is not None:
            self._add(self.checked_by, [self._check()], before, _CHECK_SECONDS)
            before = [*before, self.checked_by]
        every = {kind: list(FORMS) for kind in KINDS}
        choosing = self._ask(CHOOSING, [], "choosing", ENGLISH, every, another=True)
        self._add(CHOOSING, [choosing], before, self._seconds(self.budget.num_choosing, 2 * len(KINDS) * len(FORMS)))
        first = self.told_by(LLM, ENGLISH)
        self._add(first, self._english(first), [CHOOSING], self._seconds(self.budget.num_reporting, 2 * len(KINDS)))
        for code in self.budget.languages:
            self._languages(LLM, code, [])
        if self.stack is not None:
            for code in (ENGLISH, *self.budget.languages):
                self._languages(self.stack_name, code, ["--stack", self.stack])
        return self

    @cached_property
    def stack_name(self) -> str:
        """Folder of the stack's steps: another export has another."""
        assert self.stack is not None
        digest = hashlib.sha256()
        for path in sorted(path for path in self.stack.rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(self.stack)} {sha256_file(path)}\n".encode())
        return f"stack-{digest.hexdigest()[:12]}"

    def told_by(self, who: str, language: str) -> str:
        """The step in which `who` was asked in a language."""
        return f"{who}/{language}"

    @property
    def checked_by(self) -> str:
        """The step that looks whether the stack can be asked."""
        return f"{self.stack_name}/check"

    @property
    def was_checked(self) -> bool:
        """Whether it did."""
        return self._readable.is_file()

    def can_ask_stack(self, language: str) -> bool:
        """Whether the encoder has a tag for a language; known once it was checked."""
        return language in json.loads(self._readable.read_text(encoding="utf-8"))["languages"]

    @property
    def _readable(self) -> Path:
        return self.root / self.checked_by / _READABLE

    def rows(self, step: str) -> Rows:
        """What a step measured; nothing where it was not taken or asked nothing."""
        path = self._rows(step)
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    @property
    def choices(self) -> dict[str, Choice]:
        """kind -> how it is asked; known once its step is done."""
        return choose(self.rows(CHOOSING))

    @property
    def kinds(self) -> list[str]:
        """That are asked in all languages; known once forms were chosen."""
        return kinds_used(self.choices)

    def _check(self) -> Command:
        return python(
            "-m", "benchmarks.facts.checking", "--stack", self.stack, "--llm", self.llm, "--languages", ENGLISH,
            *self.budget.languages, "--output", self._readable,
        )  # fmt: skip

    def _english(self, step: str) -> Callable[[], Sequence[Command]]:
        """Every kind in its chosen form, those too that will not be used: the report shows how often they are right."""

        def commands() -> Sequence[Command]:
            forms = {kind: [own.form] for kind, own in self.choices.items()}
            return [self._ask(step, [], "reporting", ENGLISH, forms, another=True)]

        return commands

    def _languages(self, who: str, code: str, stack: Sequence[object]) -> None:
        """A language, in the kinds that are used; nothing where the encoder has no tag for it."""
        step = self.told_by(who, code)

        def commands() -> Sequence[Command]:
            forms = {kind: [self.choices[kind].form] for kind in self.kinds}
            can_ask = bool(forms) and (who == LLM or self.can_ask_stack(code))
            return [self._ask(step, stack, "reporting", code, forms)] if can_ask else []

        needs = [self.told_by(LLM, ENGLISH), *([] if who == LLM else [self.checked_by])]
        self._add(step, commands, needs, self._seconds(self.budget.num_reporting, len(KINDS)))

    def _ask(
        self, step: str, stack: Sequence[object], half: str, language: str, kinds: Mapping[str, Sequence[str]], *,
        another: bool = False,
    ) -> Command:  # fmt: skip
        return python(
            "-m", "benchmarks.facts.asking", "--llm", self.llm, *stack, "--budget", self.budget.name, "--half", half, "--language",
            language, "--kinds", json.dumps(kinds), *(["--another"] if another else []), "--device", self.device, "--precision",
            self.precision, "--output", self._rows(step),
        )  # fmt: skip

    def _rows(self, step: str) -> Path:
        return self.root / step / "rows.jsonl"

    def _seconds(self, num_questions: int | None, times: int) -> float:
        return _PROCESS_SECONDS + (num_questions or _NUM_QUESTIONS) * times * self.budget.seconds_per_question

    def _add(
        self,
        name: str,
        commands: Sequence[Command] | Callable[[], Sequence[Command]],
        needs: Sequence[str],
        seconds: float,
    ) -> None:
        self.steps.append(Step(name, commands, tuple(needs), seconds))
