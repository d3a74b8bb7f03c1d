"""What is trained: who learns, by which of the plain recipes in `recipes/`, with which overrides.

A training is what `launchers/train.py` gets, so that anyone can run one again by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quality.claim.budgets import Budget
from benchmarks.quality.claim.variants import Variant
from benchmarks.step_options import attention_on

RECIPES = Path("benchmarks/quality/claim/recipes")
TARGETS_OF_LLM = "plain"
"""Target set of the stage-1 shards."""
CONNECTOR_SHARE = 1 / 30
"""A connector started by least squares learns at that share of the rate: its weights are of the size of the LLM's embeddings,
and Adam's full steps would undo the start within ten of them (held-out FVU after 40 steps of MiniLM .77, and .93 without)."""


@dataclass(frozen=True)
class Learner:
    """What learns from labels: its reader, its shards, its recipe; `answers` is its name in tables."""

    name: str
    reader: str
    shards: str
    answers: str
    recipe: str = "tuning"

    @property
    def is_stacked(self) -> bool:
        return self.reader == "stacked"


TEACHER = Learner("teacher", "llm", "task", "llm_direct")
ROUND_TRIP = Learner("round_trip", "llm", "round_trip", "translate_test_tuned")
STAGE2 = Learner("stage2", "stacked", "task", "mtllm_stage2", "distillation")
RIVALS = (
    Learner("direct", "stacked", "task", "mtllm_direct"),
    Learner("mt_encoder", "encoder", "task", "mt_encoder"),
    Learner("translate_train", "llm", "translate_train", "translate_train"),
)
"""Beside the verdict: it does not need them."""
LEARNERS = (TEACHER, ROUND_TRIP, STAGE2, *RIVALS)


@dataclass(frozen=True)
class Training:
    """Arguments of `launchers/train.py`: a recipe and its overrides, of which the last word on a setting counts."""

    recipe: str
    overrides: Sequence[str]

    @property
    def arguments(self) -> list[str]:
        return ["--recipe", str(RECIPES / f"{self.recipe}.yaml"), *self.overrides]


@dataclass(frozen=True)
class Models:
    """What every training of a backbone has in common."""

    mt: str
    llm: str
    bidirectional: bool
    device: str
    precision: str

    @property
    def overrides(self) -> list[str]:
        # One rank has nothing to shard.
        deepspeed = {"cpu": "zero2", "cuda": "zero3"}[self.device]
        return [
            f"model.encoder.name={self.mt}", f"model.llm.name={self.llm}",
            f"model.llm.bidirectional={str(self.bidirectional).lower()}", f"model.attention={attention_on(self.device)}",
            f"training.precision={self.precision}", f"training.deepspeed=ds_configs/{deepspeed}.json",
        ]  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One run of a training."""

    steps: int
    learning_rate: float
    seed: int
    shards: Path
    """Folder of `train` and `valid`."""
    connector_share: float = CONNECTOR_SHARE

    @property
    def overrides(self) -> list[str]:
        often = max(1, self.steps // 4)
        return [
            f"run.seed={self.seed}", f"run.max_steps={self.steps}", f"run.validate_every={often}", f"run.save_every={often}",
            f"optim.learning_rate={self.learning_rate}", f"data.train={self.shards / 'train'}",
            f"data.validation={self.shards / 'valid'}",
        ]  # fmt: skip


def stage1(budget: Budget, models: Models, run: Run, variant: Variant) -> Training:
    """Stage 1 of a variant."""
    changes = variant.stage1 or ()
    gently = [] if "model.connector.init=default" in changes else _gently(run)
    return Training("stage1", [*_sizes(budget), *models.overrides, *run.overrides, *gently, *changes])


def task(
    learner: Learner,
    budget: Budget,
    models: Models,
    run: Run,
    start: Path | None,
    changes: Sequence[str] = (),
) -> Training:
    """Learning from labels; stacked learners begin at the export `start` and take over a variant's changes."""
    own = [f"model.reader={learner.reader}"]
    if start is not None:
        own.append(f"model.start={start}")
    gently = _gently(run) if "model.connector.trainable=true" in changes else []
    return Training(learner.recipe, [*_sizes(budget), *models.overrides, *run.overrides, *own, *gently, *changes])


def stage2_changes(learner: Learner, variant: Variant, monolingual: Path, teacher: Path, targets: str) -> list[str]:
    """What a stacked learner takes over from a variant: stage 2 all of it, besides its teacher; others what builds the model."""
    changes = [change.format(monolingual=monolingual) for change in variant.stage2]
    if learner is STAGE2:
        return [f"objective.teacher={teacher}", f"data.targets={targets}", *changes]
    return [change for change in changes if change.startswith("model.")]


def _sizes(budget: Budget) -> list[str]:
    lengths = {"model.encoder.max_length": budget.max_length, "model.llm.max_length": budget.max_length}
    cells = {"data.lanes": budget.lanes, "data.cells_per_forward": budget.lanes}
    tokens = dict.fromkeys(("data.encoder_tokens_per_cell", "data.llm_tokens_per_cell"), budget.tokens_per_cell)
    return [f"{key}={value}" for key, value in (lengths | cells | tokens).items()]


def _gently(run: Run) -> list[str]:
    return [f"optim.connector_learning_rate={run.learning_rate * run.connector_share}"]
