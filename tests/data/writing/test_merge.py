"""Parts prepared apart are, merged, the data set that one machine would have made, but for the order of its blocks."""

from dataclasses import replace

import numpy as np
import pytest

from mtllm_ds.config.data import OrderSettings
from mtllm_ds.data.shards.blocks import encode_block
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.shards.tar_shards import read_block, verify_shards
from mtllm_ds.data.stream.stream import TrainStream
from mtllm_ds.data.writing.builder import build_shards
from mtllm_ds.data.writing.merge import merge_data_sets
from mtllm_ds.errors import UserError


@pytest.fixture
def parts(shard_settings, tmp_path):
    for number, source in enumerate(shard_settings.inputs):
        build_shards(replace(shard_settings, inputs=(source,)), tmp_path / "all" / f"node-{number}", num_workers=1)
    return tmp_path / "all"


def contents(manifest):
    return sorted(encode_block(read_block(manifest, block)) for block in range(manifest.num_blocks))


def test_merged_parts_hold_what_one_data_set_holds(dataset, parts):
    merged = merge_data_sets(parts)
    assert contents(merged) == contents(dataset)
    assert merged.languages == dataset.languages
    assert merged.statistics == dataset.statistics
    assert merged.task == dataset.task
    for position in range(len(merged.languages)):
        of_language = [
            np.sort(one.llm_lengths[np.repeat(one.index.language, np.diff(one.first_row)) == position])
            for one in (merged, dataset)
        ]
        assert np.array_equal(*of_language)
    verify_shards(merged)
    stream = TrainStream(merged, OrderSettings(lanes=4))
    assert len(next(iter(stream)).micro_batches) == 4
    assert merge_data_sets(parts).hash == merged.hash == Manifest.load(parts).hash


def test_parts_that_do_not_belong_together(shard_settings, specs, parts, tmp_path):
    with pytest.raises(UserError, match="holds no folder with a finished data set"):
        merge_data_sets(tmp_path / "all" / "node-0")
    unlabelled = replace(shard_settings.inputs[0], label_field=None, labels=())
    build_shards(replace(shard_settings, inputs=(unlabelled,)), parts / "other", num_workers=1)
    with pytest.raises(UserError, match=r"other: is labelled for another task than .*node-0"):
        merge_data_sets(parts)


def test_the_same_part_twice_is_refused(shard_settings, parts):
    build_shards(replace(shard_settings, inputs=shard_settings.inputs[:1]), parts / "again", num_workers=1)
    with pytest.raises(UserError, match=r"node-0/shard-000000.tar: holds the very bytes of again/shard-000000.tar"):
        merge_data_sets(parts)
