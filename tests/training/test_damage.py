"""A damaged block that one rank alone reads, outside the steps: all ranks stop with its one line, or all skip it."""

import shutil

import pytest

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.training.assemble import run_training
from tests.distributed.ranks import RankError, ranks
from tests.fixtures.damage import damage_block
from tests.fixtures.runs import build_data, make_run, rows_of, settings_of, write_text

VALIDATION_BLOCK = 2
"""Of 21 samples in blocks of 8, rank 0 of 2 validates on the first 16 and rank 1 on the rest."""
TRAINING_BLOCK = 5
"""Rows 40 to 47: of batches of 32 rows, rank 1 of 2 reads the second."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("damage"))


@pytest.fixture
def damaged(recipe, tmp_path):
    """What the recipe reads, each set damaged in a copy of its own: name -> folder."""
    for name, block in (("train", TRAINING_BLOCK), ("validation", VALIDATION_BLOCK)):
        shutil.copytree(recipe.parent / name, tmp_path / name)
        damage_block(tmp_path / name, block)
    return tmp_path


def train(recipe, overrides):
    """On a rank of a pool."""
    return run_training(settings_of(recipe, **overrides), join_cluster(), False)


def run_on_two(recipe, output, **overrides):
    overrides = {"run__output_dir": str(output), "run__max_steps": 2, "run__validate_every": 1, **overrides}
    assert ranks(2).run(train, recipe, overrides) == [0, 0]
    return settings_of(recipe, **overrides)


def assert_rank_1_tells(caught, block):
    quiet, told = caught.value.errors
    assert quiet[0] == "PeerFailedError"
    assert told[0] == "DamagedBlockError"
    assert f"block {block} " in told[1]
    assert "\n" not in told[1]


def test_validation_stops_all_ranks(recipe, damaged, tmp_path):
    with pytest.raises(RankError) as caught:
        run_on_two(recipe, tmp_path / "run", data__validation=damaged / "validation")
    assert_rank_1_tells(caught, VALIDATION_BLOCK)


def test_validation_skips_what_the_settings_let_it(recipe, damaged, tmp_path):
    skip = {"data__on_error": "skip", "data__validation": str(damaged / "validation")}
    settings = run_on_two(recipe, tmp_path / "run", **skip, data__max_skipped_share=0.5)
    models = [recipe.parent / name for name in ("mt", "llm")]
    rest = build_data(tmp_path / "rest", write_text(tmp_path / "rest.jsonl", 16, 3), *models)
    truth = run_on_two(recipe, tmp_path / "truth", data__validation=rest)
    found, expected = ([row for row in rows_of(run) if "eval_loss" in row] for run in (settings, truth))
    assert [row.pop("eval_skipped_samples") for row in found] == [5, 5]
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other)
    with pytest.raises(RankError, match=r"more than it allows"):
        run_on_two(recipe, tmp_path / "too_much", **skip)


@pytest.mark.parametrize(
    "setting",
    [
        {"model__connector__match_scale": "true"},
        {"model__connector__centring": "language", "model__connector__centring_text": "DAMAGED"},
    ],
    ids=["connector's start", "centring"],
)
def test_reading_for_the_start_stops_all_ranks(recipe, damaged, tmp_path, setting):
    folder = str(damaged / "train")
    changes = {key: folder if value == "DAMAGED" else value for key, value in setting.items()}
    if "model__connector__match_scale" in setting:
        changes["data__train"] = folder
    with pytest.raises(RankError) as caught:
        run_on_two(recipe, tmp_path / "run", **changes)
    assert_rank_1_tells(caught, TRAINING_BLOCK)
