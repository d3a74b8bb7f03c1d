"""Checks before a run read blocks: under `data.on_error: skip` a damaged one is passed over there too, up to the bound."""

import shutil

import pytest

from mtllm_ds.data.shards.tar_shards import DamagedBlockError
from mtllm_ds.errors import UserError
from mtllm_ds.preflight.plan import check_run
from tests.fixtures.damage import damage_block
from tests.fixtures.runs import make_run, settings_of


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("damage"))


@pytest.fixture
def plan(recipe, tmp_path):
    """Settings that change -> the plan of a run whose training set has a damaged first block."""
    shutil.copytree(recipe.parent / "train", tmp_path / "train")
    damage_block(tmp_path / "train", 0)
    chosen = {"data__train": tmp_path / "train", "run__output_dir": tmp_path / "run"}
    return lambda **changes: check_run(settings_of(recipe, **chosen, **changes), 1)


def test_a_damaged_first_block_is_passed_over_where_it_may_be(plan):
    with pytest.raises(DamagedBlockError, match=r"sha256 differs.*or set data\.on_error: skip"):
        plan()
    assert plan(data__on_error="skip", data__max_skipped_share=0.2).train.num_samples == 90


def test_more_damage_than_may_be_is_refused_without_advice_that_was_taken(plan, tmp_path):
    with pytest.raises(UserError, match=r"8 of 90 samples lie in damaged blocks.*sha256 differs") as caught:
        plan(data__on_error="skip")
    assert "on_error" not in str(caught.value)
    for block in range(1, 12):
        damage_block(tmp_path / "train", block)
    with pytest.raises(UserError, match=r"all 12 blocks that were looked at are damaged; prepare it anew") as caught:
        plan(data__on_error="skip", data__max_skipped_share=1.0)
    assert "\n" not in str(caught.value)
