"""How much of everything a run of the quality benchmark does. The protocol is the same in all budgets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Sizes of a run."""

    name: str
    seeds: tuple[int, ...] = (0, 1, 2)
    learning_rates: tuple[float, ...] = (5e-4, 1.5e-3, 4e-3)
    """The same for every system; chosen on English validation with seed 0."""
    stage1_steps: int
    task_steps: int
    """Of every system that learns the task: teacher, MT encoder, direct, stage 2, translate-train, round trips."""
    stage1_pilot_steps: int
    task_pilot_steps: int
    """Of the runs that choose a learning rate."""
    lanes: int = 16
    tokens_per_cell: int = 128
    """A step holds up to lanes x tokens_per_cell tokens of whole samples, packed."""
    max_length: int = 96
    train_items: int | None = None
    valid_items: int | None = None
    """English validation items, and validation texts of stage 1; None: all."""
    stage1_texts: int | None = None
    test_items: int | None = None
    translated_items: int | None = None
    """Training items that translate-train has in each language; None: all."""
    parallel_texts: int | None = None
    """Translations a language that a stage 1 on parallel text reads beside as much English; None: no variant has one."""
    valid_pairs: int | None = None
    """Validation pairs a language that the gates are measured on."""
    ridge_texts: int = 6000
    """Stage-1 texts that the ridge is fitted on, beside the task's training items."""
    level: float = 0.05
    """Of the primary test."""
    beams: int = 4
    variants: tuple[str, ...] = ()
    """Compared with the plain method on development languages with seed 0, the best is taken; see `variants.yaml`."""
    ablations: tuple[str, ...] = ()
    """Compared in the same way, but no candidates."""
    num_jobs: int = 2
    core_seconds_per_kilotoken: float = 0.4
    """Training time, for the plan only."""

    @property
    def is_smoke(self) -> bool:
        """Does it show that the mechanics work, and nothing else?"""
        return self.name.endswith("smoke")

    @property
    def settings(self) -> dict[str, Any]:
        """What may not change while a run goes on."""
        return asdict(self)

    def training_seconds(self, reader: str, steps: int) -> float:
        """Of one core, start included, for the plan only; `reader`: stacked, encoder or llm."""
        return 30 + steps * self.lanes * self.tokens_per_cell / 1000 * self.core_seconds_per_kilotoken

    def answering_seconds(self, reader: str) -> float:
        """Of one system over all test items, for the plan only."""
        return 60

    def ridge_seconds(self, seed: int) -> float:
        """Of one core, for the plan only."""
        return 120


CPU = Budget(
    name="cpu",
    stage1_steps=500,
    task_steps=160,
    stage1_pilot_steps=60,
    task_pilot_steps=36,
    translated_items=900,
    variants=("no_stage1", "centring", "at_teacher", "at_teacher_centring", "logits"),
    ablations=("half_stage1", "default_start", "mlp", "token_loss", "unfrozen"),
)  # fmt: skip
"""Two quiet cores, two to three hours, small base models."""
GPU = replace(
    CPU, name="gpu", stage1_steps=3000, task_steps=600, stage1_pilot_steps=3000, task_pilot_steps=600, lanes=64,
    tokens_per_cell=256, num_jobs=4, max_length=128, core_seconds_per_kilotoken=0.005, translated_items=None,
    variants=(*CPU.variants, *CPU.ablations, "merged"), ablations=(),
)  # fmt: skip
"""One GPU, in parts (`--minutes 9`)."""
PARALLEL = replace(
    CPU, name="parallel", parallel_texts=2500, level=0.0125, variants=("at_teacher", "parallel_at_teacher"),
    ablations=("long_at_teacher",),
)  # fmt: skip
"""As `cpu`, with stage 1 on parallel text as a candidate. The fourth look at the claim, hence the level (.05 / 4)."""
SHORT = replace(
    CPU, name="short", seeds=(0,), stage1_steps=150, task_steps=80, variants=("centring", "unfrozen"), ablations=(),
)  # fmt: skip
"""Two quiet cores, about half an hour: one seed, so a first look and no test of the claim."""
SMOKE = replace(
    CPU, name="smoke", seeds=(0, 1), learning_rates=(5e-4, 1.5e-3), stage1_steps=4, task_steps=4, stage1_pilot_steps=2,
    task_pilot_steps=2, lanes=4, tokens_per_cell=96, train_items=40, valid_items=40, stage1_texts=120, test_items=8, valid_pairs=8,
    ridge_texts=100, beams=2, parallel_texts=20,
    variants=("no_stage1", "token_loss", "centring", "at_teacher", "parallel_at_teacher"), ablations=("mlp",),
)  # fmt: skip
"""Every kind of step on a handful of items: shows that the mechanics work, and nothing else."""
DDTP = {
    "cpu": replace(
        CPU, max_length=128, train_items=2000, valid_items=300, test_items=360, valid_pairs=150, stage1_texts=11_000,
        translated_items=300, ridge_texts=3000, variants=("at_teacher",), ablations=(),
    ),
}  # fmt: skip
"""Budgets of `ddtp_topics` that differ: its items are four times as long as those of the help text. Test items are drawn from each
language's."""
BUDGETS = {budget.name: budget for budget in (CPU, PARALLEL, GPU, SHORT, SMOKE)}


def place_of(name: str, task: str) -> str:
    """Name of a run's folders."""
    return name if task == "lohelp_modules" else f"{name}-{task}"


def budget_of(name: str, task: str) -> Budget:
    """The budget of that name for a task; `ddtp_topics` never trains on more than 2,000 items."""
    if task != "ddtp_topics":
        return BUDGETS[name]
    budget = DDTP.get(name, BUDGETS[name])
    return replace(budget, train_items=min(budget.train_items or 2000, 2000))
