"""The steps of a run on public models: a real multilingual encoder stacked on a real English model.

The encoder is no MT model: translations come from Apertium, in the directions that it has, and each of their steps is optional.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.quality.claim.backbone import BackbonePlan
from benchmarks.quality.claim.plan import Plan
from benchmarks.quality.claim.public_budgets import PublicBudget
from benchmarks.quality.claim.trainings import RIVALS, STAGE2, TEACHER, Learner, Run, Training
from benchmarks.quality.claim.variants import PLAIN, VARIANTS, Variant
from benchmarks.quality.text.frozen import PUBLIC_MANIFESTS
from benchmarks.steps import Command, python
from mtllm_ds.evaluation.items.translated import READINGS
from mtllm_ds.languages import ENGLISH
from mtllm_ds.transfer_sets.translation.apertium import DIRECTIONS
from mtllm_ds.transfer_sets.translation.command import PREFIX

INTO_ENGLISH = {source: name for name, (source, target) in DIRECTIONS.items() if target == ENGLISH}
FROM_ENGLISH = {target: name for name, (source, target) in DIRECTIONS.items() if source == ENGLISH}
"""Language -> Apertium's direction"""
TRANSLATE_TEST = "translate_test"
DIRECT, ENCODER, TRANSLATE_TRAIN = RIVALS


@dataclass
class PublicPlan(Plan):
    """What all backbones share. `mt` is the encoder's folder, `more_text` the other task's, whose English stage 1 reads too."""

    budget: PublicBudget
    more_text: Path = field(kw_only=True)

    @property
    def translated_from(self) -> list[str]:
        """Languages that Apertium translates into English."""
        return [code for code in self.languages if code in INTO_ENGLISH]

    @property
    def translated_into(self) -> list[str]:
        """Languages that Apertium translates English into."""
        return [code for code in self.languages if code in FROM_ENGLISH]

    @property
    def means(self) -> list[object]:
        """How the encoder's means are read, once for all steps."""
        return ["--cache", self.root / "means", "--precision", self.precision]

    def add_shared(self) -> None:
        """Data, the encoder's gate, translations, and baselines without a model."""
        more = ["--languages", *self.languages, "--more-text", self.more_text, "--fill-valid-pairs"]
        manifest = PUBLIC_MANIFESTS.get(self.task_name)
        more += [] if manifest is None else ["--manifest", manifest]
        self.add("data", [self._data(*more)], seconds=150)
        known = python(
            "-m", "benchmarks.quality.vectors.known_languages", "--encoder", self.mt, "--data", self.folder("data"),
            "--languages", *self.languages, "--max-length", self.budget.max_length, *self.means,
            "--output", self.folder("gates") / "gates.json", "--device", self.device,
        )  # fmt: skip
        pairs = 2 * len(self.languages) * (self.budget.valid_pairs or 300)
        self.add("gates", [known], ["data"], 20 + self.budget.reading_seconds("encoder", pairs))
        self.add_baselines()
        for code in self.translated_from:
            step, mt = f"translate/test/{code}", f"{PREFIX}apertium {INTO_ENGLISH[code]}"
            command = self.translate("test", step, "--readings", *READINGS, mt=mt, languages=[code])
            self.add(step, [command], ["data"], 90, optional=True)
        for code in self.translated_into:
            step, mt = f"translate/train/{code}", f"{PREFIX}apertium {FROM_ENGLISH[code]}"
            some = ["--items-per-language", self.budget.translated_items]
            self.add(step, [self.translate("train", step, *some, mt=mt, languages=[code])], ["data"], 90, optional=True)


class PublicBackbone(BackbonePlan):
    """One backbone's part: what decides is the encoder with LoRA and a head; what Apertium translates stands beside it."""

    plan: PublicPlan
    budget: PublicBudget
    rivals = (DIRECT, TRANSLATE_TRAIN)
    deciding = (ENCODER,)
    controls = ("shuffled_connector",)
    monolingual = ()

    def _run(self, shards: str, steps: int, rate: float, seed: int) -> Run:
        return Run(steps, rate, seed, self.folder(f"shards/{shards}"), self.budget.connector_share)

    def _task_shards(self) -> None:
        """English items, and those that Apertium translated, a folder for each language, mixed by weight in training."""
        task, valid = self.plan.task, (ENGLISH,)
        own = [self._items("task/train", task, "train", valid), self._items("task/valid", task, "valid", valid)]
        self.add("shards/task", own, ["data"], 30)
        into = self.plan.translated_into
        if not into:
            return
        commands = [
            self._items(f"{TRANSLATE_TRAIN.shards}/{code}", self._translated("train", code), "train", [code])
            for code in into
        ]
        commands.append(self._items(f"{TRANSLATE_TRAIN.shards}/valid", task, "valid", valid))
        needs = ["shards/task", *(f"translate/train/{code}" for code in into)]
        self.add(f"shards/{TRANSLATE_TRAIN.shards}", commands, needs, 30, optional=True)

    def _translated(self, what: str, code: str, reading: str = "") -> Path:
        return self.plan.folder(f"translate/{what}/{code}") / reading / "task.yaml"

    def _task_training(
        self,
        learner: Learner,
        steps: int,
        rate: float,
        seed: int,
        start: Path | None,
        variant: Variant = VARIANTS[PLAIN],
        mt: str | None = None,
    ) -> Training:
        training = super()._task_training(learner, steps, rate, seed, start, variant, mt)
        if learner is not TRANSLATE_TRAIN:
            return training
        own = self.folder(f"shards/{TRANSLATE_TRAIN.shards}")
        weights = {self.folder("shards/task") / "train": self.budget.english_items}
        weights |= {own / code: self.budget.translated_items or 0 for code in self.plan.translated_into}
        sets = ", ".join(f"{{path: {path}, weight: {weight}}}" for path, weight in weights.items())
        return Training(training.recipe, [*training.overrides, f"data.train=[{sets}]"])

    def _learn(self, learner: Learner) -> None:
        if learner is not TRANSLATE_TRAIN or self.plan.translated_into:
            super()._learn(learner)

    def _ask_learner(self, learner: Learner, seed: int) -> None:
        if learner is not TRANSLATE_TRAIN or self.plan.translated_into:
            super()._ask_learner(learner, seed)

    def _evaluate(self, seed: int) -> None:
        """Each system in a step of its own; translate-test a step for each language that Apertium translated."""
        for learner in (TEACHER, STAGE2, *self.deciding):
            self._ask_learner(learner, seed)
        # The first seed leaves the encoder's means to the others.
        self._ridge(seed, *self.plan.means, after=["eval/ridge-0"] if seed else [])
        for code in self.plan.translated_from:
            step, name = translate_test_step(code, seed), f"{TEACHER.name}/seed-{seed}"
            commands: list[Command] = [
                self._ask(
                    self.folder(name) / "export", f"{step}/{reading}", TRANSLATE_TEST, seed, "--setting", "plain",
                    task=self._translated("test", code, reading), languages=[code],
                )
                for reading in READINGS
            ]  # fmt: skip
            self.add(step, commands, [name, f"translate/test/{code}"], 25 * len(commands), optional=True)


def translate_test_step(code: str, seed: int) -> str:
    """Name of the step that asks a tuned LLM about the translations from one language."""
    return f"eval/{TRANSLATE_TEST}-{code}-{seed}"


def public_learners(plan: PublicPlan) -> Sequence[Learner]:
    """All that learn from labels."""
    train = (TRANSLATE_TRAIN,) if plan.translated_into else ()
    return (TEACHER, STAGE2, ENCODER, DIRECT, *train)
