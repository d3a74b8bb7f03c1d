"""Recipes of the quality benchmark's trainings, whole, as `recipe.yaml` beside each run: anyone can run one again by hand."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.quality.claim.budgets import Budget
from mtllm_ds.atomic import write_text

TARGETS_OF_LLM = "plain"
"""Target set of the stage-1 shards."""


CONNECTOR_SHARE = 1 / 30
"""A connector started by least squares learns at that share of the rate: its weights are of the size of the LLM's embeddings,
and Adam's full steps would undo the start within ten of them (held-out FVU after 40 steps of MiniLM .77, and .93 without)."""


@dataclass(frozen=True)
class Recipe:
    """Settings of one training; each method returns a changed copy."""

    budget: Budget
    mt: str
    llm: str
    bidirectional: bool
    precision: str
    deepspeed: str
    attention: str
    shards: Path
    steps: int
    learning_rate: float
    seed: int
    changes: dict[str, Any] = field(default_factory=dict)

    def changed(self, changes: dict[str, Any]) -> Recipe:
        """With some settings replaced, `section.key` -> value."""
        return replace(self, changes=self.changes | changes)

    def stage1(self) -> Recipe:
        return self.changed(
            {
                "model.connector.init": "least_squares",
                "model.connector.match_scale": True,
                "optim.warmup_share": 0.05,
                "data.targets": TARGETS_OF_LLM,
            }
        )

    def task(self, reader: str, start: Path | None) -> Recipe:
        """Cross-entropy on labels."""
        changes: dict[str, Any] = {
            "model.reader": reader, "objective.name": "task_tuning", "objective.select_by": "accuracy",
            "optim.warmup_share": 0.1,
        }  # fmt: skip
        if start is not None:
            changes["model.start"] = str(start)
        return self.changed(changes)

    def distillation(self, teacher: Path, targets: str) -> Recipe:
        """Stage 2."""
        return self.changed(
            {"objective.name": "task_distillation", "objective.teacher": str(teacher), "data.targets": targets}
        )

    def settings(self, output: Path) -> dict[str, Any]:
        """All sections."""
        budget = self.budget
        often = max(1, self.steps // 4)
        sections: dict[str, Any] = {
            "run": {
                "output_dir": str(output), "seed": self.seed, "max_steps": self.steps, "validate_every": often,
                "save_every": often, "keep_checkpoints": 1, "tensorboard": False,
            },
            "model": {
                "encoder": {"name": self.mt, "max_length": budget.max_length},
                "attention": self.attention,
                "llm": {"name": self.llm, "bidirectional": self.bidirectional, "max_length": budget.max_length},
                "lora": {"rank": 16, "alpha": 32, "dropout": 0.0},
            },
            "data": {
                "train": str(self.shards / "train"), "validation": str(self.shards / "valid"), "lanes": budget.lanes,
                "encoder_tokens_per_cell": budget.tokens_per_cell, "llm_tokens_per_cell": budget.tokens_per_cell,
                "cells_per_forward": budget.lanes,
            },
            "optim": {"learning_rate": self.learning_rate, "schedule": "linear", "warmup_share": 0.05},
            "training": {"precision": self.precision, "deepspeed": self.deepspeed},
        }  # fmt: skip
        sections = copy.deepcopy(sections)
        for key, value in self.changes.items():
            *parents, last = key.split(".")
            section = sections
            for parent in parents:
                section = section.setdefault(parent, {})
            section[last] = value
        connector = sections["model"].get("connector", {})
        if connector.get("init") == "least_squares" or connector.get("trainable"):
            sections["optim"]["connector_learning_rate"] = self.learning_rate * CONNECTOR_SHARE
        return sections

    def write(self, folder: Path) -> Path:
        """`recipe.yaml` in a folder, for a run in its `run/`."""
        write_text(folder / "recipe.yaml", yaml.safe_dump(self.settings(folder / "run"), sort_keys=False))
        return folder / "recipe.yaml"
