"""The steps of the quality benchmark, from data to predictions: which commands run, on what, after what.

Here is what all backbones share; `backbone_plan.py` and `backbone_steps.py` have the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.quality.claim.budgets import Budget
from benchmarks.steps import Command, Step, python
from mtllm_ds.evaluation.items.translated import READINGS

DECODINGS = {"greedy": 1, "beam4": 4}
SHARED = ("data", "gates", "translate", "baseline")
"""First part of the names of steps that belong to no backbone."""
Commands = Sequence[Command] | Callable[[], Sequence[Command]]


@dataclass
class Plan:
    """Steps of one run below `root`, in an order in which each comes after what it needs."""

    root: Path
    budget: Budget
    text: Path
    """Folder of the text around the task."""
    mt: str
    languages: list[str]
    """Of the task, without English."""
    development: list[str]
    headline: str | None
    """Variant that all seeds and languages are run with; None takes the one that is best on the development languages."""
    choice: Path
    """File that says which one that was."""
    task_name: str = "lohelp_modules"
    device: str = "cpu"
    precision: str = "fp32"
    any_data: bool = False
    models: Path = Path("runs/public")
    """Folder of public models (make public-models)."""
    steps: list[Step] = field(default_factory=list)

    def add(
        self, name: str, commands: Commands, needs: Sequence[str] = (), seconds: float = 15, optional: bool = False
    ) -> None:
        self.steps.append(Step(name, commands, tuple(needs), seconds, optional))

    def folder(self, step: str) -> Path:
        """Folder of a step."""
        return self.root / step

    @property
    def task(self) -> Path:
        return self.folder("data") / "task" / "task.yaml"

    def add_shared(self) -> None:
        """Data, gates of the MT model, translations, and baselines without a model."""
        self.add("data", [self._data()], seconds=40)
        self.add("gates", [self.gates(self.mt, "gates", self.languages)], ["data"], 60)
        for name, beams in DECODINGS.items():
            more = ["--readings", *READINGS, "--beams", min(beams, self.budget.beams)]
            self.add(f"translate/{name}", [self.translate("test", f"translate/{name}", *more)], ["data"], 120 * beams)
        count = self.budget.translated_items
        some = [] if count is None else ["--items-per-language", count]
        train = [self.translate("train", "translate/train", *some)]
        self.add("translate/train", train, ["data"], 200, optional=True)
        self.add("translate/round_trip", [self.translate("round-trip", "translate/round_trip")], ["data"], 200)
        self.add_baselines()

    def add_baselines(self) -> None:
        """Answers without a model."""
        for system in ("majority", "tfidf"):
            output = self.folder(f"baseline/{system}") / "predictions.parquet"
            command = ["baseline", "--task", self.task, "--system", system, "--output", output]
            self.add(f"baseline/{system}", [python("launchers/evaluate.py", *command)], ["data"], 30)

    def gates(self, mt: str, step: str, languages: list[str]) -> Command:
        """chrF and retrieval of an MT model on validation pairs -> `gates.json` in the step's folder."""
        return python(
            "-m", "benchmarks.quality.bases.mt_gates", "--mt", mt, "--data", self.folder("data"), "--languages", *languages,
            "--cache", self.root / "translations", "--output", self.folder(step) / "gates.json", "--device", self.device,
        )  # fmt: skip

    def translate(
        self, what: str, step: str, *more: object, mt: str | None = None, languages: list[str] | None = None
    ) -> Command:
        """Translated items of the task in the step's folder."""
        return python(
            "launchers/translate.py", what, "--task", self.task, "--mt", mt or self.mt, "--languages",
            *(languages or self.languages), "--cache", self.root / "translations", "--output", self.folder(step), *more,
        )  # fmt: skip

    def _data(self, *more: object) -> Command:
        limits = {
            "--train-items": self.budget.train_items, "--valid-items": self.budget.valid_items,
            "--test-items": self.budget.test_items, "--stage1-texts": self.budget.stage1_texts,
            "--valid-pairs": self.budget.valid_pairs, "--parallel-texts": self.budget.parallel_texts,
        }  # fmt: skip
        given = [part for name, value in limits.items() if value is not None for part in (name, value)]
        return python(
            "-m", "benchmarks.quality.claim.data", "--data", self.text, "--mt", self.mt, "--output",
            self.folder("data"), "--task", self.task_name, *given,
            *(["--any-data"] if self.any_data else []), *more,
        )  # fmt: skip
