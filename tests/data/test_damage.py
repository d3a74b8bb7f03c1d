"""Damaged data sets: one line that names the place, and nothing that was there is touched."""

import json
import random
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from mtllm_ds.config.data import OrderSettings
from mtllm_ds.data.shards.blocks import encode_block
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.shards.tar_shards import DamagedBlockError, read_block, verify_shards
from mtllm_ds.data.stream.stream import EvalStream, TrainStream
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.errors import UserError
from tests.fixtures.damage import damage_block
from tests.fixtures.tokenizers import save_nllb_tokenizer

SETTINGS = OrderSettings(lanes=4)


def train_through(folder, steps=60, **options):
    return list(islice(TrainStream(folder, SETTINGS, **options), steps))


def test_missing_shard(dataset_copy):
    (dataset_copy / "shard-000001.tar").unlink()
    uses = (
        lambda: TrainStream(dataset_copy, SETTINGS),
        lambda: EvalStream(dataset_copy, batch_size=4),
        lambda: verify_shards(Manifest.load(dataset_copy)),
    )
    for use in uses:
        with pytest.raises(UserError, match=r"shard-000001.tar' is missing"):
            use()


def test_truncated_shard(dataset_copy):
    shard = dataset_copy / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"shard-000001.tar' has 5000 bytes instead of"):
        TrainStream(dataset_copy, SETTINGS)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_one_byte_of_a_block_changed(dataset_copy, num_workers):
    block = int(np.flatnonzero(Manifest.load(dataset_copy).index.shard == 1)[0])
    manifest = damage_block(dataset_copy, block)
    place = rf"block {block} .*shard 'shard-000001.tar', bytes {manifest.index.offset[block]}-.*sha256 differs"
    with pytest.raises(UserError, match=place) as raised:
        train_through(dataset_copy, num_workers=num_workers)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=place):
        verify_shards(manifest)


def test_one_byte_between_blocks_changed_is_found_by_verify(dataset_copy):
    manifest = Manifest.load(dataset_copy)
    shard = dataset_copy / manifest.shards[0].name
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match="altered between its blocks"):
        verify_shards(manifest)


def test_a_foreign_shard_is_refused(dataset_copy):
    manifest = Manifest.load(dataset_copy)
    names = [shard.name for shard in manifest.shards if shard.bytes == manifest.shards[0].bytes][:2]
    assert len(names) == 2
    one, other = (dataset_copy / name for name in names)
    other.write_bytes(one.read_bytes())
    with pytest.raises(UserError, match=r"sha256 differs|ends at byte|does not fit"):
        verify_shards(manifest)


def test_a_shard_that_stands_twice_is_refused(dataset_copy):
    manifest = Manifest.load(dataset_copy)
    object.__setattr__(manifest, "shards", (*manifest.shards[:-1], manifest.shards[0]))
    with pytest.raises(UserError, match="stands twice"):
        verify_shards(manifest)


def test_skip_drops_whole_blocks_counts_them_and_has_a_bound(dataset_copy):
    block = 3
    manifest = damage_block(dataset_copy, block)
    lost = set(range(int(manifest.first_row[block]), int(manifest.first_row[block + 1])))
    stream = TrainStream(dataset_copy, SETTINGS, on_error="skip", max_skipped_share=0.1)
    seen = {i for step in islice(stream, 60) for b in step.micro_batches for i in b.sample_ids.tolist()}
    assert not seen & lost
    language = manifest.languages[int(manifest.index.language[block])]
    assert stream.metrics()[f"skipped_samples/{language}"] == len(lost)
    with pytest.raises(UserError, match=r"more than it allows"):
        train_through(dataset_copy, on_error="skip", max_skipped_share=0.01)


def test_validation_skips_the_same_way_and_counts(dataset_copy):
    block = 3
    manifest = damage_block(dataset_copy, block)
    lost = set(range(int(manifest.first_row[block]), int(manifest.first_row[block + 1])))
    streams = [
        EvalStream(dataset_copy, rank=rank, world_size=2, batch_size=5, on_error="skip", max_skipped_share=0.1)
        for rank in range(2)
    ]
    batches = [list(stream) for stream in streams]
    assert len(batches[0]) == len(batches[1])
    seen = [i for part in batches for batch in part for i in batch.sample_ids[batch.valid].tolist()]
    assert sorted(seen) == sorted(set(range(manifest.num_samples)) - lost)
    assert sum(stream.skipped_samples for stream in streams) == len(lost)
    with pytest.raises(UserError, match=r"more than it allows"):
        list(EvalStream(dataset_copy, batch_size=5, on_error="skip", max_skipped_share=0.01))
    with pytest.raises(UserError, match="sha256 differs"):
        list(EvalStream(dataset_copy, batch_size=5))


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign"])
def test_skip_goes_on_without_the_blocks_of_a_lost_shard(dataset_copy, damage):
    manifest = Manifest.load(dataset_copy)
    shard = dataset_copy / manifest.shards[1].name
    keep = 3000 if damage == "truncated" else 0
    whole = shard.read_bytes()
    if damage == "missing":
        shard.unlink()
    else:
        other = (dataset_copy / manifest.shards[0].name).read_bytes()
        shard.write_bytes(whole[:keep] if damage == "truncated" else other)
    index = manifest.index
    lost = {
        block
        for block in np.flatnonzero(index.shard == 1).tolist()
        if int(index.offset[block] + index.size_bytes[block]) > keep
    }
    stream = TrainStream(dataset_copy, SETTINGS, on_error="skip", max_skipped_share=0.6)
    seen = {i for step in islice(stream, 200) for b in step.micro_batches for i in b.sample_ids[b.valid].tolist()}
    assert set(manifest.blocks_of_rows(np.array(sorted(seen))).tolist()) == set(range(manifest.num_blocks)) - lost
    counted = sum(value for name, value in stream.metrics().items() if name.startswith("skipped_samples/"))
    assert counted == sum(len(index.llm_lengths[block]) for block in lost)


def test_damaged_manifest_and_index(dataset_copy):
    manifest, index = dataset_copy / "manifest.json", dataset_copy / "index.bin"
    whole = index.read_bytes()
    index.write_bytes(whole[:-1] + b"x")
    with pytest.raises(UserError, match=r"index 'index.bin' was altered"):
        Manifest.load(dataset_copy)
    index.unlink()
    with pytest.raises(UserError, match=": not whole"):
        Manifest.load(dataset_copy)
    index.write_bytes(whole)
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"version": 9}))
    with pytest.raises(UserError, match="version 9, this code reads 1"):
        Manifest.load(dataset_copy)
    manifest.write_text(manifest.read_text()[:100])
    with pytest.raises(UserError, match="is damaged"):
        Manifest.load(dataset_copy)
    manifest.unlink()
    with pytest.raises(UserError, match="there is none"):
        Manifest.load(dataset_copy)


@pytest.mark.parametrize("name", ["../secret.tar", "/etc/passwd", "a/../../b", "pipe:cat x", ""])
def test_names_that_lead_out_of_the_folder_are_refused(dataset_copy, name):
    path = dataset_copy / "manifest.json"
    content = json.loads(path.read_text())
    content["shards"][0]["name"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="leads out of the data set's folder"):
        verify_shards(Manifest.load(dataset_copy))


def test_a_tokenizer_that_does_not_match(dataset, specs, tmp_path):
    for spec in specs.values():
        dataset.check_tokenizer(load_text_tokenizer(spec))
    other = save_nllb_tokenizer(Path(tmp_path) / "other", vocab_size=390)
    with pytest.raises(UserError, match=r"the encoder's tokenizer .* is not the one the shards"):
        dataset.check_tokenizer(load_text_tokenizer(TokenizerSpec(name=str(other), side="encoder")))


def test_blocks_are_read_as_written_whatever_the_order(dataset):
    for block in (5, 0, dataset.num_blocks - 1):
        assert len(read_block(dataset, block)["label"]) == len(dataset.index.llm_lengths[block])


def test_what_ranks_skip_counts_together(dataset, dataset_copy):
    """Each of four ranks meets one damaged block of 16 samples, below the bound; all together are above it, and told."""
    whole = np.flatnonzero(np.diff(dataset.first_row) == 16)[:12]
    for block in whole:
        damage_block(dataset_copy, int(block))
    share = 0.5  # of 328 samples, 192 are damaged
    streams = [
        TrainStream(dataset_copy, SETTINGS, rank=rank, world_size=4, on_error="skip", max_skipped_share=share)
        for rank in range(4)
    ]
    union: set[int] = set()

    def take_a_step():
        for stream in parts:
            next(stream)
        union.update(*(stream.skipped_blocks for stream in streams))
        for stream in streams:
            stream.note_skipped(union)

    parts = [iter(stream) for stream in streams]
    with pytest.raises(
        UserError, match=r"data\.max_skipped_share=.*: \d+ of 328 samples lie in damaged blocks, more than it allows"
    ):
        run_for_ever(take_a_step)
    told = 16 * len(union)
    assert share * 328 < told <= share * 328 + 4 * 16, "no more than what ranks met in that one step"


def run_for_ever(step):
    while True:
        step()


def test_a_reader_process_that_is_killed_is_told_in_one_line(dataset):
    import os
    import signal
    import time

    from tests.data.writing.test_workers import children_of

    others = set(children_of(os.getpid()))
    steps = iter(TrainStream(dataset, SETTINGS, num_workers=2))
    next(steps)
    for reader in set(children_of(os.getpid())) - others:
        os.kill(reader, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"data\.train: a reader process died"):
        for _ in steps:
            pass
    assert time.monotonic() - began < 30


def test_a_thousand_random_flips_and_truncations_never_yield_a_wrong_sample(dataset, dataset_copy):
    """Every damage is found by `verify_shards`, and each block reads as it was written or not at all."""
    rng = random.Random(20_240_607)
    manifest = Manifest.load(dataset_copy)
    index = manifest.index
    original = {block: encode_block(read_block(dataset, block)) for block in range(dataset.num_blocks)}
    whole = {shard.name: (dataset_copy / shard.name).read_bytes() for shard in manifest.shards}
    caught = 0
    for _ in range(1000):
        number = rng.randrange(len(manifest.shards))
        name = manifest.shards[number].name
        damaged = bytearray(whole[name])
        if rng.random() < 0.3:
            del damaged[rng.randrange(len(damaged)) :]
        else:
            for _ in range(rng.choice([1, 1, 2, 50])):
                damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        (dataset_copy / name).write_bytes(damaged)
        for block in np.flatnonzero(index.shard == number).tolist():
            start, end = int(index.offset[block]), int(index.offset[block] + index.size_bytes[block])
            if damaged[start:end] == whole[name][start:end]:
                assert encode_block(read_block(manifest, block)) == original[block]
            else:
                caught += 1
                with pytest.raises(DamagedBlockError):
                    read_block(manifest, block)
        if damaged != whole[name]:
            with pytest.raises(UserError):
                verify_shards(manifest)
        (dataset_copy / name).write_bytes(whole[name])
    assert caught > 1000
