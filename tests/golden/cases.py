"""The small runs whose curves are committed: one for every objective and every way of reading, all on random tiny models.

Each is a few steps in fp32 with dropout on, so that data order, draws, losses, gradients and validation are all in the curve.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from mtllm_ds.cluster.launch import Cluster, join_cluster
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.text.tokenization import TokenizerSpec
from mtllm_ds.data.writing.builder import build_shards
from mtllm_ds.data.writing.settings import ShardSettings
from mtllm_ds.data.writing.sources import InputFile
from mtllm_ds.teachers.trained import load_teacher
from mtllm_ds.training.runs import run_seeds
from mtllm_ds.transfer_sets.teacher_targets import write_targets
from tests.fixtures.dialogue_runs import make_dialogue_run
from tests.fixtures.masked_runs import make_masked_run
from tests.fixtures.runs import make_run, settings_of
from tests.fixtures.task_runs import CHOICE, make_task_run

STEPS = 4
_ALWAYS = {
    "run__max_steps": STEPS, "run__validate_every": 2, "run__save_every": 100, "model__lora__dropout": 0.05,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One run: the recipe of `material` with overrides; `needs` are the cases whose runs it starts from."""

    material: str
    overrides: dict[str, object] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


_LEAST_SQUARES = {"model__connector__init": "least_squares", "model__connector__match_scale": "true"}
_PACKED = {"data__samples_per_cell": "null", "data__encoder_tokens_per_cell": 48, "data__llm_tokens_per_cell": 48}
_BUDGET = {"data__samples_per_cell": "null", "data__llm_tokens_per_cell": 96}
_STAGE2 = {"objective__name": "task_distillation", "objective__teacher": "{runs}/task_tuning", "data__targets": "tuned"}

CASES = {
    "stage1": Case("text"),
    "stage1_causal": Case("text", {"model__llm__bidirectional": "false", "model__connector__type": "mlp"}),
    "stage1_packed": Case("text", {**_PACKED, **_LEAST_SQUARES, "optim__connector_learning_rate": 1e-3}),
    "stage1_cached": Case("text", {"data__targets": "plain"}),
    "stage1_tokens": Case(
        "text",
        {
            "objective__token_weight": 0.667,
            "objective__sequence_weight": 0.333,
            "data__train": "{data}/train_pairs",
            "data__validation": "{data}/validation_pairs",
        },
    ),
    "masked_next_token": Case(
        "text",
        {"objective__name": "masked_next_token", "objective__mask_token": "e", "model__reader": "llm"},
    ),
    "balanced_teachers": Case("languages", {"objective__teachers_on_device": 2}),
    "whole_words": Case(
        "languages",
        {
            **_BUDGET,
            "objective__teacher_of": "null",
            "objective__temperature": 1.0,
            "objective__whole_words": "true",
            "objective__mask_share": "[[0.5,0.3],[0.5,0.15]]",
        },
    ),
    "token_distillation": Case("dialogues", {**_PACKED, "objective__nll_weight": 0.5, "objective__layout": "prepend"}),
    "token_distillation_llm": Case("dialogues", {"model__reader": "llm", "objective__divergence": "jsd"}),
    "simcse": Case(
        "text",
        {
            "objective__name": "simcse",
            "model__reader": "llm",
            "model__start": "{runs}/masked_next_token",
            "model__merge_start_lora": "true",
        },
        ("masked_next_token",),
    ),
    "simcse_of_step": Case(
        "text",
        {"objective__name": "simcse", "objective__negatives": "step", "model__reader": "llm"},
    ),
    "task_tuning": Case("topics", {"model__reader": "llm"}),
    "task_tuning_encoder": Case("topics", {"model__reader": "encoder"}),
    "task_tuning_choices": Case("choices", {"model__connector__trainable": "true"}),
    "stage2": Case("topics", _STAGE2, ("task_tuning",)),
    "stage2_from_teacher": Case(
        "topics",
        {
            **_STAGE2,
            "objective__match": "logits",
            "objective__start_at_teacher": "true",
            "model__merge_start_lora": "true",
            "model__start": "{runs}/stage2",
        },
        ("task_tuning", "stage2"),
    ),
}


class Material:
    """Models, shards and finished runs below one folder, each made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._recipes: dict[str, Path] = {}

    def recipe(self, name: str) -> Path:
        """The recipe of `text`, `languages`, `dialogues`, `topics` or `choices`."""
        if name not in self._recipes:
            folder = self.folder / name
            if name == "text":
                self._recipes[name] = make_run(folder)
                _with_token_pairs(folder)
                _cache(folder, "plain", folder / "llm")
            elif name == "languages":
                self._recipes[name] = make_masked_run(folder)
            elif name == "dialogues":
                self._recipes[name] = make_dialogue_run(folder)
            elif name == "topics":
                self._recipes[name] = make_task_run(folder)
            else:
                self._recipes[name] = make_task_run(folder, CHOICE)
        return self._recipes[name]

    def overrides(self, name: str, world_size: int) -> tuple[Path, dict[str, str]]:
        """Recipe and overrides of a case's run, whose folder is named after the case."""
        case = CASES[name]
        recipe = self.recipe(case.material)
        runs = recipe.parent / "runs-1"
        if "data__targets" in case.overrides and case.material == "topics" and not self._is_cached(recipe):
            _cache(recipe.parent, "tuned", runs / "task_tuning")
        chosen = {**_ALWAYS, **case.overrides, "run__output_dir": str(recipe.parent / f"runs-{world_size}" / name)}
        places = {"{runs}": str(runs), "{data}": str(recipe.parent)}
        return recipe, {key: _filled(str(value), places) for key, value in chosen.items()}

    def _is_cached(self, recipe: Path) -> bool:
        return (recipe.parent / "train" / "targets" / "tuned").exists()


def train(recipe: Path, overrides: dict[str, str]) -> int:
    """On a rank of a pool: one whole run."""
    return run_seeds(settings_of(recipe, **overrides), join_cluster(), False)


def _filled(text: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        text = text.replace(name, place)
    return text


def _with_token_pairs(folder: Path) -> None:
    """The shards again, with the column of the token loss."""
    sides = {
        side: TokenizerSpec(name=str(folder / name), side=side, max_length=64)
        for side, name in (("encoder", "mt"), ("llm", "llm"))
    }
    for name in ("train", "validation"):
        source = InputFile(path=str(folder / f"{name}.jsonl"), language="eng_Latn")
        settings = ShardSettings(inputs=(source,), **sides, block_samples=8, token_pairs=True)
        build_shards(settings, folder / f"{name}_pairs", 1)


def _cache(folder: Path, name: str, teacher: Path) -> None:
    alone = Cluster(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
    for part in ("train", "validation"):
        manifest = Manifest.load(str(folder / part))
        model = load_teacher(str(teacher), manifest, alone.device, torch.float32)
        write_targets(manifest, name, model, alone, batch_size=8)
