"""The steps of the generative benchmark, from public models to scores: which commands run, on what, after what."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.generative.budgets import Budget
from benchmarks.step_options import attention_on
from benchmarks.steps import Command, Step, mtllm, python
from mtllm_ds.languages import ENGLISH

RECIPE = "generative_stacking"
_PROCESS_SECONDS = 15.0
"""Of a command that imports torch and reads both models"""
_READINGS = 8
"""What a held-out prompt of one language costs, in responses that are written"""


@dataclass
class Plan:
    """Steps of one run, each after what it needs."""

    root: Path
    budget: Budget
    text: Path
    models: Path
    device: str
    precision: str
    descriptions: Path | None = None
    """Folder of descriptions of packages, where the budget asks for them"""
    parallel: bool = False
    steps: list[Step] = field(default_factory=list)

    def build(self) -> Plan:
        budget, text, responses = self.budget, self.folder("text"), self.folder("responses")
        write = python("-m", "benchmarks.public_models.write", "--out", self.models, "--models", "e5-small", "smollm2")
        self._add("models", [write], [], 120)
        given = ["--budget", budget.name]
        computes = ["--precision", self.precision]
        more: list[object] = ["--parallel"] if self.parallel else []
        if self.descriptions is not None:
            more += ["--descriptions", self.descriptions]
        read = python("-m", "benchmarks.generative.data", "--text", self.text, *given, *more, "--output", text)
        self._add("text", [read], [], 10)
        heldout = budget.num_heldout + budget.num_descriptions
        tokens = (
            budget.num_train + budget.num_train_descriptions
        ) * budget.train_tokens + heldout * budget.heldout_tokens
        written = self._ranks(
            "benchmarks.generative.responses",
            "--text",
            text,
            *given,
            *computes,
            "--llm",
            self.llm,
            "--output",
            responses,
        )
        self._add("responses", [written], ["models", "text"], _PROCESS_SECONDS + tokens / budget.tokens_per_second)
        shards = [
            self._shards(responses / f"{name}.jsonl", self.folder("shards") / name) for name in ("train", "valid")
        ]
        self._add("shards", shards, ["responses"], 2 * _PROCESS_SECONDS)
        seconds = budget.steps * budget.samples_per_step * budget.seconds_per_sample
        self.steps.append(Step("stack", self._training, ("shards",), 3 * _PROCESS_SECONDS + seconds))
        asked = self._ranks(
            "mtllm_ds", "evaluate", "generation", "--model", self.model, "--input", responses / "heldout.jsonl", "--answers-in",
            ENGLISH, "--max-new-tokens", budget.heldout_tokens, "--batch-size", 32, *computes, "--output", self.folder("scores"),
        )  # fmt: skip
        prompts = heldout * (len(budget.languages) + 1)
        cost = prompts * _READINGS * budget.heldout_tokens / budget.tokens_per_second
        self._add("scores", [asked], ["stack"], _PROCESS_SECONDS + cost)
        return self

    @property
    def llm(self) -> Path:
        return self.models / "smollm2"

    @property
    def encoder(self) -> Path:
        return self.models / "e5-small"

    @property
    def run(self) -> Path:
        """The training run."""
        return self.folder("stack") / "run"

    @property
    def model(self) -> Path:
        """The exported stack."""
        return self.folder("stack") / "model"

    @property
    def found(self) -> Path:
        """What was found on held-out prompts."""
        return self.folder("scores") / "found"

    @property
    def num_threads(self) -> int:
        """Of each rank: on CPU all ranks together take the cores."""
        return max(1, (os.cpu_count() or 1) // self.budget.num_ranks)

    def folder(self, step: str) -> Path:
        return self.root / step

    def overrides(self) -> list[str]:
        """Settings of the training that the recipe leaves to the budget."""
        budget = self.budget
        often = max(1, budget.steps // budget.checkpoints)
        lanes = min(32, budget.samples_per_step)
        return [
            f"run.output_dir={self.run}", f"run.max_steps={budget.steps}", f"run.validate_every={often}", f"run.save_every={often}",
            f"run.log_every={max(1, often // 20)}", "run.tensorboard=false", f"model.encoder.name={self.encoder}",
            f"model.llm.name={self.llm}", f"model.encoder.max_length={budget.max_length}",
            f"model.llm.max_length={budget.max_length}", f"data.train={self.folder('shards') / 'train'}",
            f"data.validation={self.folder('shards') / 'valid'}", f"data.lanes={lanes}",
            f"data.samples_per_cell={budget.samples_per_step // lanes}",
            f"data.cells_per_forward={max(1, budget.samples_per_forward * lanes // budget.samples_per_step)}",
            f"optim.learning_rate={budget.learning_rate}",
            f"optim.connector_learning_rate={budget.learning_rate * budget.connector_share:.3g}",
            f"model.attention={attention_on(self.device)}", f"training.precision={self.precision}",
        ]  # fmt: skip

    def _training(self) -> Sequence[Command]:
        """Train, from the last checkpoint where one is there, and export."""
        resume = ["--resume"] if any((self.run / "checkpoints").glob("step_*")) else []
        train = self._ranks("mtllm_ds", "train", "--recipe", RECIPE, *self.overrides(), *resume)
        exported = [] if self.model.exists() else [mtllm("export", self.run, self.model)]
        return [train, *exported]

    def _ranks(self, module: str, *arguments: object) -> Command:
        """A module on all ranks of this machine."""
        launch = python("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", self.budget.num_ranks)
        return [*launch, "-m", module, *map(str, arguments)]

    def _shards(self, dialogues: Path, output: Path) -> Command:
        return mtllm(
            "prepare", "dialogues", "--input", dialogues, "--encoder", self.encoder, "--llm", self.llm, "--max-length",
            self.budget.max_length, "--block-samples", 32, "--num-workers", 1, "--output", output,
        )  # fmt: skip

    def _add(self, name: str, commands: Sequence[Command], needs: Sequence[str], seconds: float) -> None:
        self.steps.append(Step(name, commands, tuple(needs), seconds))
