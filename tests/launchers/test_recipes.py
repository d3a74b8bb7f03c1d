"""Every shipped recipe is one that the trainer would take: settings, files of this repository, DeepSpeed."""

import json

import pytest
import yaml

from mtllm_ds.config import load_settings
from mtllm_ds.config.deepspeed import resolve_deepspeed
from mtllm_ds.config.shipped import shipped_place
from tests.fixtures.runs import REPOSITORY

RECIPES = sorted((REPOSITORY / "launchers" / "recipes").glob("*.yaml"))
MADE_BY_USERS = ("runs/", "data/")
"""First folders of paths that a run or a preparation leaves."""
HUB = ("facebook/", "meta-llama/")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """What a recipe names is found from any folder."""
    monkeypatch.chdir(tmp_path)


def texts(node):
    """All strings in a recipe's values."""
    if isinstance(node, dict):
        return [text for value in node.values() for text in texts(value)]
    return [node] if isinstance(node, str) else []


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_accepted(recipe):
    settings = load_settings(recipe)
    config = resolve_deepspeed(settings, world_size=8, micro_batch_size=4, micro_batches_per_step=2)
    assert '"auto"' not in json.dumps(config)
    assert config["train_batch_size"] == 8 * 4 * 2
    assert config["bf16"]["enabled"] == (settings.training.precision == "bf16")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_what_a_recipe_names_ships_or_is_made_by_users(recipe):
    paths = [text for text in texts(yaml.safe_load(recipe.read_text())) if "/" in text]
    paths = [path for path in paths if not path.startswith((*MADE_BY_USERS, *HUB, "package:"))]
    assert [path for path in paths if not shipped_place(path).exists()] == []


def test_adaptation_in_two_runs_as_the_recipe_says():
    """The second command that llm2vec_adapt.yaml gives."""
    text = (REPOSITORY / "launchers" / "recipes" / "llm2vec_adapt.yaml").read_text()
    words = text[text.index("objective.name=simcse") :].split("\n#   mtllm-ds")[0].split()
    overrides = [word for word in words if "=" in word]
    assert "optim.learning_rate=3e-5" in overrides
    settings = load_settings(REPOSITORY / "launchers" / "recipes" / "llm2vec_adapt.yaml", overrides)
    assert (settings.objective.name, settings.model.merge_start_lora) == ("simcse", True)
    assert (settings.objective.negatives, settings.data.lanes * settings.data.samples_per_cell) == ("step", 128)
