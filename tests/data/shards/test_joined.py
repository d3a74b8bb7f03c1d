"""Several data sets in one run: read as one, mixed by weight, told apart by the cursor."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from mtllm_ds.config.data import MixingSettings, OrderSettings
from mtllm_ds.data.shards import index_map
from mtllm_ds.data.shards.blocks import Ragged, encode_block
from mtllm_ds.data.shards.joined import join_data_sets, parts_of
from mtllm_ds.data.shards.tar_shards import read_block, verify_shards
from mtllm_ds.data.shards.targets import TargetSet, TargetWriter, TeacherIdentity
from mtllm_ds.data.stream.order import Order
from mtllm_ds.data.stream.schedule import Schedule
from mtllm_ds.data.stream.stream import EvalStream, TrainStream
from mtllm_ds.data.writing.builder import build_shards
from mtllm_ds.errors import UserError

BUDGETS = {"encoder_tokens_per_cell": 160, "llm_tokens_per_cell": 256}


@pytest.fixture(scope="module")
def parts(shard_settings, tmp_path_factory):
    """English and German; German and Khmer of other texts."""
    folder = tmp_path_factory.mktemp("parts")
    english, german, khmer = shard_settings.inputs
    one = build_shards(replace(shard_settings, inputs=(english, german)), folder / "one", num_workers=1)
    lines = (folder / "more.jsonl", (folder.parent / german.path).read_text(encoding="utf-8"))
    lines[0].write_text(lines[1].replace('"text": "', '"text": "again '), encoding="utf-8")
    more = replace(german, path=str(lines[0]))
    return one, build_shards(
        replace(shard_settings, inputs=(more, khmer), block_samples=7), folder / "two", num_workers=1
    )


@pytest.fixture(scope="module")
def joined(parts):
    return join_data_sets(parts, (3.0, 1.0))


def test_it_holds_the_blocks_of_its_parts_in_order(parts, joined):
    found = [encode_block(read_block(joined, block)) for block in range(joined.num_blocks)]
    assert found == [encode_block(read_block(part, block)) for part in parts for block in range(part.num_blocks)]
    assert joined.languages == ("deu_Latn", "eng_Latn", "khm_Khmr")
    codes = [part.languages[i] for part in parts for i in part.index.language]
    assert [joined.languages[i] for i in joined.index.language] == codes
    assert joined.statistics["deu_Latn"]["samples"] == sum(part.statistics["deu_Latn"]["samples"] for part in parts)
    assert parts_of(joined) == tuple(zip(parts, (3.0, 1.0), strict=True))
    verify_shards(joined)
    rows = [i for batch in EvalStream(joined, batch_size=50) for i in batch.sample_ids[batch.valid].tolist()]
    assert sorted(rows) == list(range(sum(part.num_samples for part in parts)))


def test_a_set_whose_share_rounds_to_nothing_is_refused(parts):
    for weight in (1e-13, 1e-310):
        with pytest.raises(UserError, match=r"data\.train: '\w+' of .* would never be drawn.*raise the weight"):
            Order(join_data_sets(parts, (1.0, weight)), OrderSettings(lanes=4), 0)


@pytest.mark.parametrize("cells", [{"samples_per_cell": 4}, BUDGETS], ids=["fixed", "budgets"])
def test_sets_give_samples_by_weight_and_languages_mix_within(parts, joined, cells):
    mixing = MixingSettings(rule="temperature", temperature=2.0, cycle_draws=16)
    order = Order(joined, OrderSettings(lanes=4, mixing=mixing, **cells), 0)
    within = [np.sqrt(part.samples_of_language) / np.sqrt(part.samples_of_language).sum() for part in parts]
    assert order.shares.shares == pytest.approx(np.concatenate([0.75 * within[0], 0.25 * within[1]]))
    schedule = Schedule(order, range(4))
    taken = np.zeros(2)
    for _ in range(400):
        for rows in schedule.next_cells().values():
            owners = rows >= parts[0].num_samples
            assert owners.all() or not owners.any()
            taken[int(owners[0])] += len(rows)
    assert taken / taken.sum() == pytest.approx([0.75, 0.25], abs=0.02)
    assert np.bincount(order.sources.part, schedule.place.samples).tolist() == taken.tolist()


@pytest.mark.parametrize("cells", [{"samples_per_cell": 4}, BUDGETS], ids=["fixed", "budgets"])
def test_batches_are_the_same_on_any_ranks_after_any_stop_and_metrics_count_sets(parts, joined, cells):
    settings = OrderSettings(lanes=4, **cells)

    def rows(steps):
        return [[i for batch in step.micro_batches for i in batch.sample_ids[batch.valid].tolist()] for step in steps]

    whole = TrainStream(joined, settings)
    expected = rows(islice(whole, 12))
    ranks = [list(islice(TrainStream(joined, settings, rank=r, world_size=2), 5)) for r in range(2)]
    assert [sorted(a + b) for a, b in zip(*map(rows, ranks), strict=True)] == [sorted(own) for own in expected[:5]]
    assert ranks[0][-1].cursor == ranks[1][-1].cursor
    resumed = TrainStream(joined, settings, cursor=ranks[0][-1].cursor, num_workers=1)
    assert rows(islice(resumed, 7)) == expected[5:]
    told, all_rows = resumed.metrics(), np.concatenate(expected)
    for number, part in enumerate(parts):
        own = int(((all_rows >= parts[0].num_samples) == bool(number)).sum())
        assert told[f"set_samples/{part.storage.root}"] == own
        assert told[f"set_epochs/{part.storage.root}"] == pytest.approx(own / part.num_samples)
    assert told == whole.metrics() | {name: told[name] for name in told if name.startswith("padding/")}


def test_a_rule_with_nothing_to_mix_is_refused(shard_settings, tmp_path):
    """One set per language: balanced and temperature would read them by the sets' weights alone."""
    sets = [
        build_shards(replace(shard_settings, inputs=(own,)), tmp_path / str(number), num_workers=1)
        for number, own in enumerate(shard_settings.inputs[:2])
    ]
    joined = join_data_sets(sets, (3.0, 1.0))
    for mixing in (
        {"rule": "balanced"},
        {"rule": "temperature", "temperature": 2.0},
        {"phases": [{"from_step": 2, "rule": "temperature", "temperature": 3.0}]},
    ):
        with pytest.raises(UserError, match=r"has no effect where each data set holds one language.*prepare merge"):
            Order(joined, OrderSettings(mixing=MixingSettings(**mixing)), 0)
    smallest = int(min(one.num_samples for one in sets))
    limited = MixingSettings(rule="balanced", samples_per_language=smallest)
    for mixing in (MixingSettings(), limited):
        assert Order(joined, OrderSettings(mixing=mixing), 0).shares.shares == pytest.approx([0.75, 0.25])


def test_a_cursor_names_every_set_and_its_weight(parts, joined):
    settings = OrderSettings(lanes=4)
    cursor = next(iter(TrainStream(joined, settings))).cursor
    assert cursor["sets"] == [
        {"manifest": part.hash, "weight": weight} for part, weight in zip(parts, (3.0, 1.0), strict=True)
    ]
    refused = {
        "made on another data set": parts[0],
        r"has the weights \[1.0, 1.0\], but the checkpoint's run has \[3.0, 1.0\]": join_data_sets(parts, (1.0, 1.0)),
    }
    for reason, other in refused.items():
        with pytest.raises(UserError, match=reason):
            TrainStream(other, settings, cursor=cursor)


def test_explicit_weights_hold_within_each_set(parts, joined):
    def shares(**weights):
        mixing = MixingSettings(rule="explicit", weights=weights)
        return Order(joined, OrderSettings(mixing=mixing), 0).shares.shares

    assert shares(de=1, eng_Latn=3, khm_Khmr=1) == pytest.approx([0.1875, 0.5625, 0.125, 0.125])
    with pytest.raises(UserError, match="names 'zul_Latn', which the data set lacks"):
        shares(zul_Latn=1)
    with pytest.raises(UserError, match=r"no language of '.*two' has any"):
        shares(eng_Latn=1)


def test_target_sets_of_the_parts_come_along(parts, joined):
    from mtllm_ds.data.shards.joined import JoinedTargets

    teacher = TeacherIdentity(name="t", revision=None, tokenizer_fingerprint="f")
    for number, part in enumerate(parts):
        writer = TargetWriter(part, "numbered", teacher)
        for group in writer.missing_groups():
            with writer.open(group) as sink:
                for block in sink.blocks:
                    count = len(part.index.llm_lengths[block])
                    sink.add({"teacher_pooled": np.full((count, 2), 1000 * number + block, np.float32)})
        writer.finish()
    targets = JoinedTargets(parts, [TargetSet(part, "numbered", teacher) for part in parts])
    stream = TrainStream(joined, OrderSettings(lanes=4), targets=[targets])
    for step in islice(stream, 30):
        for batch in step.micro_batches:
            blocks = joined.blocks_of_rows(batch.sample_ids.numpy())
            second = blocks >= parts[0].num_blocks
            expected = np.where(second, 1000 + blocks - parts[0].num_blocks, blocks)
            assert batch.extras["teacher_pooled"][:, 0].tolist() == expected.tolist()


def test_what_does_not_belong_together_is_one_line(shard_settings, parts, tmp_path):
    unlabelled = replace(shard_settings.inputs[0], label_field=None, labels=())
    other = build_shards(replace(shard_settings, inputs=(unlabelled,)), tmp_path / "plain", num_workers=1)
    with pytest.raises(UserError, match=r"plain: is labelled for another task than .*one; keep them apart"):
        join_data_sets([parts[0], other], (1, 1))
    empty = replace(parts[1], index=replace(parts[1].index, encoder_lengths=Ragged.from_rows([], np.uint16)))
    with pytest.raises(UserError, match=r"two: holds no samples; leave it out"):
        join_data_sets([parts[0], empty], (1, 1))
    same = build_shards(replace(shard_settings, inputs=shard_settings.inputs[:2]), tmp_path / "same", num_workers=1)
    with pytest.raises(UserError, match=r"same/.*: holds the very bytes of .*one/"):
        join_data_sets([parts[0], same], (1, 1))


def test_a_large_index_is_joined_once_per_machine_and_mapped(parts, joined, monkeypatch, tmp_path):
    from mtllm_ds.data.shards.storage import RemoteSettings

    monkeypatch.setattr(index_map, "MAPPED_FROM_BYTES", 0)
    remote = RemoteSettings(cache_folder=str(tmp_path))
    mapped = join_data_sets(parts, (3.0, 1.0), remote)
    assert isinstance(mapped.llm_lengths, np.memmap)
    assert mapped.llm_lengths.tolist() == joined.llm_lengths.tolist()
    monkeypatch.setattr("mtllm_ds.data.shards.joined.joined_index", None)
    assert join_data_sets(parts, (3.0, 1.0), remote).first_row.tolist() == joined.first_row.tolist()
