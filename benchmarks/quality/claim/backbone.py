"""The steps of one backbone in order: learning, evaluation, variants, the MT ladder.

A system that learns is trained with every learning rate in short pilots (seed 0), the best on English validation is taken, and
then it is trained, exported and evaluated once a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.quality.claim.backbone_steps import PARALLEL_TARGETS, PLAIN_STAGE1, PLAIN_TARGETS, BackboneSteps
from benchmarks.quality.claim.trainings import ROUND_TRIP, STAGE2, TEACHER, Learner
from benchmarks.quality.claim.variants import PLAIN, VARIANTS, Variant
from benchmarks.steps import Command, python
from mtllm_ds.evaluation.items.translated import READINGS
from mtllm_ds.languages import ENGLISH

COPY = "import shutil, sys; shutil.copytree(*sys.argv[1:], dirs_exist_ok=True)"


class BackbonePlan(BackboneSteps):
    """Adds all steps of a backbone to a plan."""

    deciding: Sequence[Learner] = (ROUND_TRIP,)
    """Rivals that the verdict needs."""
    controls: Sequence[str] = ("wrong_tag", "shuffled_connector")
    """Of stage 2 of seed 0: a wrong tag, and a connector whose outputs are shuffled."""

    def build(self, ladder: Sequence[str]) -> None:
        """All steps, what the verdict does not need last; `ladder`: earlier checkpoints of the MT model."""
        self._shards()
        self._plain_targets()
        self._pilots("stage1", self._stage1_training, [PLAIN_TARGETS])
        self._stage1(PLAIN_STAGE1, 0, VARIANTS[PLAIN])
        self._learn(TEACHER)
        for seed in self.budget.seeds:
            self._targets(seed)
        self._stacked_pilots(STAGE2, ["targets/seed-0"])
        if self._chooses:
            for variant in (PLAIN, *self.budget.variants):
                self._variant(variant, "variants")
            self._choose()
        for seed in self.budget.seeds:
            self._chosen_stage1(seed)
        for learner in (STAGE2, *self.deciding):
            self._learn(learner)
        for seed in self.budget.seeds:
            self._evaluate(seed)
        for learner in self.rivals:
            if learner.is_stacked:
                self._stacked_pilots(learner)
            self._learn(learner)
            for seed in self.budget.seeds:
                self._ask_learner(learner, seed)
        self._controls()
        for number, mt in enumerate(ladder):
            self._rung(number, mt)
        if self._chooses:
            for variant in self.budget.ablations:
                self._variant(variant, "ablations", optional=True)

    def _stacked_pilots(self, learner: Learner, needs: Sequence[str] = ()) -> None:
        needs = [f"shards/{learner.shards}", PLAIN_STAGE1, *needs]
        self._pilots(learner.name, partial(self._plainly, learner), needs, learner in self.rivals)

    def _stage1(self, name: str, seed: int, variant: Variant, optional: bool = False) -> None:
        steps = max(2, round(self.budget.stage1_steps * variant.stage1_share))

        def commands() -> list[Command]:
            training = self._stage1_training(steps, self.rate("stage1"), seed, variant)
            return [self._train(name, training), self._export(name)]

        needs = [*self._pilot_names("stage1").values(), self._targets_of(variant)]
        self.add(name, commands, needs, self.budget.training_seconds("stacked", steps), optional)

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
            training = self._stage1_training(steps, self.rate("stage1"), seed, variant)
            return [self._train(name, training), self._export(name)]

        needs = [PLAIN_STAGE1, *self._every_target, *self._after_choice]
        is_there = seed == 0 and self._chooses
        self.add(
            name, commands, needs, 10 if is_there else self.budget.training_seconds("stacked", self.budget.stage1_steps)
        )

    @property
    def _every_target(self) -> list[str]:
        return [PLAIN_TARGETS, *([PARALLEL_TARGETS] if self.budget.parallel_texts else [])]

    def _choose(self) -> None:
        folders = ["--folder", self.plan.folder(self.name), "--output", self.plan.choice]
        command = python("-m", "benchmarks.quality.claim.variants", *folders, "--languages", *self.plan.development)
        names = [step.name for step in self.plan.steps if step.name.startswith(f"{self.name}/variants/")]
        self.add("choice", [command], names, 10)

    def _learn(self, learner: Learner) -> None:
        """One run a seed, and for those that do not stack pilots before."""
        optional = learner in self.rivals
        if not learner.is_stacked:
            training = partial(self._task_training, learner, start=None)
            self._pilots(learner.name, training, [f"shards/{learner.shards}"], optional, learner.reader)
        for seed in self.budget.seeds:
            name = f"{learner.name}/seed-{seed}"

            def commands(name: str = name, seed: int = seed) -> list[Command]:
                return self._learn_once(learner, name, seed)

            needs = [*self._pilot_names(learner.name).values(), f"shards/{learner.shards}"]
            if learner.is_stacked:
                needs += [f"stage1/seed-{seed}", *self.monolingual, *self._after_choice]
            if learner is STAGE2:
                needs.append(f"targets/seed-{seed}")
            self.add(
                name, commands, needs, self.budget.training_seconds(learner.reader, self.budget.task_steps), optional
            )

    def _learn_once(self, learner: Learner, name: str, seed: int) -> list[Command]:
        steps, rate = self.budget.task_steps, self.rate(learner.name)
        if not learner.is_stacked:
            return [self._train(name, self._task_training(learner, steps, rate, seed, None)), self._export(name)]
        variant = VARIANTS[self.headline]
        start = None if variant.stage1 is None else self.folder(f"stage1/seed-{seed}") / "export"
        training = self._task_training(learner, steps, rate, seed, start, variant)
        return [self._train(name, training), self._export(name)]

    def _evaluate(self, seed: int) -> None:
        """What the verdict needs of a seed, each system in a step of its own; translate-test reads what was translated before."""
        self._ask_learner(TEACHER, seed)
        self._ask_learner(STAGE2, seed)
        for learner, system, decoding in (
            (TEACHER, "translate_test_greedy", "greedy"),
            (TEACHER, "translate_test_beam4", "beam4"),
            (ROUND_TRIP, ROUND_TRIP.answers, "beam4"),
        ):
            step, name = f"eval/{system}-{seed}", f"{learner.name}/seed-{seed}"
            asked = self._ask_readings(name, step, system, seed, f"translate/{decoding}", self.plan.languages)
            self.add(step, asked, [name, f"translate/{decoding}"], 30 * len(asked))
        self._ridge(seed)

    def _ridge(self, seed: int, *more: object, after: Sequence[str] = ()) -> None:
        """The ridge with the tuned LLM of a seed."""
        limits = ["--texts", self.budget.ridge_texts, "--max-length", self.budget.max_length]
        more = ("--data", self.plan.folder("data"), *limits, *more)
        teacher = self.folder(f"teacher/seed-{seed}") / "export"
        command = ["--mt", self.plan.mt, "--teacher", teacher, *more, "--seed", seed]
        output = ["--output", self.folder(f"eval/ridge-{seed}") / "ridge", "--device", self.plan.device]
        ridge = python("-m", "benchmarks.quality.vectors.ridge_system", *command, *output)
        self.add(f"eval/ridge-{seed}", [ridge], [f"teacher/seed-{seed}", *after], self.budget.ridge_seconds(seed))

    def _ask_learner(self, learner: Learner, seed: int) -> None:
        """All languages; the teacher reads the English originals too."""
        step, name = f"eval/{learner.answers}-{seed}", f"{learner.name}/seed-{seed}"
        export = self.folder(name) / "export"
        commands = [self._ask(export, step, learner.answers, seed)]
        if learner is TEACHER:
            commands.append(self._ask(export, step, "english_originals", seed, "--read", "originals"))
        seconds = self.budget.answering_seconds(learner.reader) * len(commands)
        self.add(step, commands, [name], seconds, optional=learner in self.rivals)

    def _controls(self) -> None:
        export = self.folder("stage2/seed-0") / "export"
        for control in self.controls:
            command = self._ask(export, f"eval/{control}-0", control, 0, "--control", control)
            seconds = self.budget.answering_seconds("stacked")
            self.add(f"eval/{control}-0", [command], ["stage2/seed-0"], seconds, optional=True)

    def _variant(self, name: str, folder: str, optional: bool = False) -> None:
        """One variant with seed 0, judged on the development languages."""
        variant, step, start = VARIANTS[name], f"{folder}/{name}/stage2", None
        needs = ["shards/task", *self.monolingual, "targets/seed-0", *self._pilot_names("stage2").values()]
        if variant.stage1 is not None:
            stage1 = f"{folder}/{name}/stage1" if variant.has_own_stage1 else PLAIN_STAGE1
            if variant.has_own_stage1:
                self._stage1(stage1, 0, variant, optional)
            needs.append(stage1)
            start = self.folder(stage1) / "export"
        languages = (ENGLISH, *self.plan.development)

        def commands() -> list[Command]:
            training = self._task_training(STAGE2, self.budget.task_steps, self.rate("stage2"), 0, start, variant)
            ask = self._ask(self.folder(step) / "export", step, f"variant_{name}", 0, languages=languages)
            return [self._train(step, training), self._export(step), ask]

        self.add(step, commands, needs, self.budget.training_seconds("stacked", self.budget.task_steps) + 40, optional)

    def _rung(self, number: int, mt: str) -> None:
        """The MT ladder: stack and translate-test on an earlier checkpoint of the MT model, development languages, seed 0."""
        step, languages = f"ladder/{number}", self.plan.development
        stage1 = f"{step}/stage1"

        def first() -> list[Command]:
            variant = VARIANTS[self.headline]
            steps = max(2, round(self.budget.stage1_steps * variant.stage1_share))
            training = self._stage1_training(steps, self.rate("stage1"), 0, variant, mt)
            return [] if variant.stage1 is None else [self._train(stage1, training), self._export(stage1)]

        self.add(
            stage1,
            first,
            ["stage1/seed-0", *self._every_target],
            self.budget.training_seconds("stacked", self.budget.stage1_steps),
            optional=True,
        )

        def commands() -> list[Command]:
            variant = VARIANTS[self.headline]
            start = None if variant.stage1 is None else self.folder(stage1) / "export"
            training = self._task_training(STAGE2, self.budget.task_steps, self.rate("stage2"), 0, start, variant, mt)
            full, readings = self._full(step), ["--readings", *READINGS]
            return [
                self.plan.gates(mt, full, languages),
                self.plan.translate("test", f"{full}/translate", *readings, mt=mt, languages=languages),
                self._train(f"{step}/stage2", training),
                self._export(f"{step}/stage2"),
                self._ask(self.folder(f"{step}/stage2") / "export", step, "mtllm_stage2", 0, languages=languages),
                *self._ask_readings("teacher/seed-0", step, "translate_test_greedy", 0, f"{step}/translate", languages),
            ]

        needs = [stage1, *self.monolingual, "targets/seed-0", *self._pilot_names("stage2").values()]
        self.add(
            step, commands, needs, self.budget.training_seconds("stacked", self.budget.task_steps) + 250, optional=True
        )
