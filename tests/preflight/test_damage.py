"""Checks before a run read blocks: under `data.on_error: skip` a damaged one is passed over there too, up to the bound."""

import shutil

import pytest

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.shards.tar_shards import DamagedBlockError
from mtllm_ds.data.text.tokenization import TokenizerSpec
from mtllm_ds.data.writing.builder import build_shards
from mtllm_ds.data.writing.settings import ShardSettings
from mtllm_ds.data.writing.sources import InputFile
from mtllm_ds.errors import UserError
from mtllm_ds.preflight.plan import check_run
from mtllm_ds.training.runs import run_seeds
from tests.distributed.ranks import ranks
from tests.fixtures.damage import damage_block
from tests.fixtures.runs import make_run, rows_of, settings_of


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


def test_missing_and_cut_shards_are_skipped_up_to_the_bound(recipe, tmp_path):
    settings = ShardSettings(
        inputs=(InputFile(path=str(recipe.parent / "train.jsonl"), language="eng_Latn"),),
        encoder=TokenizerSpec(name=str(recipe.parent / "mt"), side="encoder", max_length=64),
        llm=TokenizerSpec(name=str(recipe.parent / "llm"), side="llm", max_length=64),
        block_samples=8,
        shard_bytes=8_000,
    )
    folder = tmp_path / "train"
    build_shards(settings, folder, num_workers=1)
    cut_short, missing = Manifest.load(folder).shards
    (folder / missing.name).unlink()
    chosen = {"data__train": folder, "run__output_dir": tmp_path / "run", "run__max_steps": 2}
    with pytest.raises(UserError, match=rf"the shard '{missing.name}' is missing; copy or prepare it anew"):
        check_run(settings_of(recipe, **chosen), 1)
    skip = chosen | {"data__on_error": "skip"}
    with pytest.raises(UserError, match=rf"{missing.samples} of 90 samples lie in damaged.*{missing.name}' is missing"):
        check_run(settings_of(recipe, **skip, data__max_skipped_share=0.01), 1)
    skip["data__max_skipped_share"] = 0.8
    (line,) = [line for line in check_run(settings_of(recipe, **skip), 1).warnings if "shard" in line]
    assert line == f"data set {folder}: the shard '{missing.name}' is missing, and what it held is skipped"
    # Of one that is cut short the blocks before the cut are still there.
    cut = folder / cut_short.name
    cut.write_bytes(cut.read_bytes()[: cut_short.bytes // 2])
    manifest = Manifest.load(folder)
    lost = sum(len(manifest.index.llm_lengths[block]) for block in manifest.lost_blocks())
    assert missing.samples < lost < missing.samples + cut_short.samples
    run = settings_of(recipe, **skip, data__lanes=2, run__log_every=1, data__samples_per_cell=22)
    assert ranks(1).run(train, run) == [0]
    assert rows_of(run)[-2]["skipped_samples/eng_Latn"] == lost


def train(settings):
    """On a rank of a pool."""
    return run_seeds(settings, join_cluster(), False)
