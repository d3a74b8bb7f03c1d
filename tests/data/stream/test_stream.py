"""The order of training does not depend on ranks, workers or stops, and loses nothing."""

import json
import os
from functools import partial
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtllm_ds.config.data import MixingSettings, OrderSettings
from mtllm_ds.data.shards.tar_shards import read_block
from mtllm_ds.data.stream.collate import Collator
from mtllm_ds.data.stream.stream import EvalStream, TrainStream
from mtllm_ds.errors import UserError
from tests.data.conftest import SAMPLES

MIXES = (
    MixingSettings(),
    MixingSettings(rule="temperature", temperature=3.0, cycle_draws=10),
    MixingSettings(rule="balanced", samples_per_language=16, cycle_draws=7),
    MixingSettings(rule="unimax", max_epochs=2.0, budget_samples=1000),
    MixingSettings(rule="explicit", weights={"eng_Latn": 1.0, "khm_Khmr": 5.0}, cycle_draws=3),
    MixingSettings(cycle_draws=1, phases=({"from_step": 3, "rule": "temperature", "temperature": 9.0},)),
)

schedules = st.builds(
    OrderSettings,
    lanes=st.integers(5, 9),
    samples_per_cell=st.integers(1, 5),
    cells_per_forward=st.integers(1, 3),
    mixing=st.sampled_from(MIXES),
) | st.builds(
    partial(OrderSettings, encoder_tokens_per_cell=160, llm_tokens_per_cell=256),
    lanes=st.integers(5, 9),
    cells_per_forward=st.integers(1, 3),
    queue_size=st.integers(1, 20),
    mixing=st.sampled_from(MIXES),
)


def with_changes(schedule, **changes):
    return schedule.model_copy(update=changes)


def global_batches(manifest, schedule, seed, world_size, num_workers, steps, cursor=None):
    """Per step: lane-ordered valid rows over all ranks, with their ids; and the last step's cursor as each rank tells it."""
    ranks = []
    for rank in range(world_size):
        stream = TrainStream(
            manifest, schedule, rank=rank, world_size=world_size, num_workers=num_workers, seed=seed, cursor=cursor
        )
        taken = list(islice(stream, steps))
        assert {len(step.micro_batches) for step in taken} == {stream.micro_batches_per_step}
        ranks.append(taken)
    assert len({len(rank[0].micro_batches) for rank in ranks}) == 1
    batches = []
    for parts in zip(*ranks, strict=True):
        assert len({part.step for part in parts}) == 1
        rows = {}
        for part in parts:
            for batch in part.micro_batches:
                assert batch.valid.tolist() == sorted(batch.valid.tolist(), reverse=True)
                for i in torch.nonzero(batch.valid).flatten().tolist():
                    content = (
                        batch.encoder_ids[i][batch.encoder_mask[i].bool()].tolist(),
                        batch.llm_ids[i][batch.llm_mask[i].bool()].tolist(),
                        int(batch.languages[i]),
                        int(batch.extras["label"][i]),
                    )
                    rows.setdefault(int(batch.sample_ids[i]), []).append(content)
        batches.append(rows)
    cursors = [rank[-1].cursor for rank in ranks]
    assert all(other == cursors[0] for other in cursors)
    return batches, json.loads(json.dumps(cursors[0]))


@given(
    schedule=schedules,
    seed=st.integers(0, 1000),
    world_size=st.integers(1, 5),
    stop=st.integers(1, 12),
    then_world_size=st.integers(1, 5),
)
@settings(max_examples=40)
def test_global_batches_are_the_same_on_any_cluster_and_after_any_stop(
    dataset, schedule, seed, world_size, stop, then_world_size
):
    steps = 14
    expected, _ = global_batches(dataset, schedule, seed, 1, 0, steps)
    before, cursor = global_batches(dataset, schedule, seed, world_size, 0, stop)
    after, _ = global_batches(dataset, schedule, seed, then_world_size, 0, steps - stop, cursor)
    assert before + after == expected


@pytest.mark.parametrize("budgets", [{}, {"encoder_tokens_per_cell": 160, "llm_tokens_per_cell": 256, "queue_size": 3}])
def test_a_cursor_taken_where_a_cycle_of_draws_ends_is_of_its_own_step(dataset, budgets):
    """Without workers the order is shared with a reader that looks a step ahead."""
    schedule = OrderSettings(lanes=5, samples_per_cell=1, mixing=MixingSettings(cycle_draws=1), **budgets)
    steps = 100 if budgets else 30  # more than a round
    expected, _ = global_batches(dataset, schedule, 3, 1, 0, steps)
    taken = list(islice(TrainStream(dataset, schedule, seed=3), steps))
    cycles = {step.cursor["mixing_state"]["cycle"] for step in taken}
    assert len(cycles) > 1
    for stop in range(1, steps):
        after, _ = global_batches(dataset, schedule, 3, 1, 0, 1, taken[stop - 1].cursor)
        assert after == expected[stop : stop + 1]


@given(
    schedule=schedules,
    seed=st.integers(0, 1000),
    world_size=st.integers(1, 5),
    num_workers=st.integers(1, 2),
    stop=st.integers(1, 8),
    then_workers=st.integers(0, 2),
)
@settings(max_examples=8)
def test_workers_change_nothing(dataset, schedule, seed, world_size, num_workers, stop, then_workers):
    expected, _ = global_batches(dataset, schedule, seed, 1, 0, 10)
    before, cursor = global_batches(dataset, schedule, seed, world_size, num_workers, stop)
    after, _ = global_batches(dataset, schedule, seed, 1, then_workers, 10 - stop, cursor)
    assert before + after == expected


@pytest.mark.parametrize(
    "schedule",
    [OrderSettings(lanes=4), OrderSettings(lanes=4, encoder_tokens_per_cell=160, llm_tokens_per_cell=256)],
    ids=["fixed", "budgets"],
)
def test_metrics_count_samples_and_epochs(dataset, schedule):
    """Over all ranks, and across a stop."""
    stream = TrainStream(dataset, schedule)
    taken = list(islice(stream, 30))
    rows = np.concatenate([batch.sample_ids.numpy() for step in taken for batch in step.micro_batches])
    counts = np.bincount(dataset.index.language[dataset.blocks_of_rows(rows)], minlength=3)
    resumed = TrainStream(dataset, schedule, cursor=taken[9].cursor, rank=1, world_size=2, num_workers=1)
    list(islice(resumed, 20))
    for metrics in (stream.metrics(), resumed.metrics()):
        for code, count, size in zip(dataset.languages, counts, dataset.samples_of_language, strict=True):
            assert metrics[f"samples/{code}"] == count
            assert metrics[f"epochs/{code}"] == pytest.approx(count / size)


def test_iterated_once_more_it_goes_on(dataset):
    schedule = OrderSettings(lanes=4)
    stream, truth = TrainStream(dataset, schedule), TrainStream(dataset, schedule)
    taken = [*islice(stream, 3), *islice(stream, 2), *islice(stream, 4)]
    for step, expected in zip(taken, truth, strict=False):
        assert step.step == expected.step
        assert step.micro_batches[0].sample_ids.tolist() == expected.micro_batches[0].sample_ids.tolist()


def test_workers_open_no_file_for_each_tensor(dataset):
    schedule = OrderSettings(lanes=64, encoder_tokens_per_cell=160, llm_tokens_per_cell=256)
    before = len(os.listdir("/proc/self/fd"))
    stream = iter(TrainStream(dataset, schedule, num_workers=2))
    kept = [next(stream), next(stream)]
    assert len(kept[0].micro_batches) == 64
    assert len(os.listdir("/proc/self/fd")) < before + 40


def test_batches_hold_what_the_blocks_hold(dataset):
    batch = next(iter(TrainStream(dataset, OrderSettings(lanes=2, cells_per_forward=2)))).micro_batches[0]
    assert len(batch) == 8
    for i, row in enumerate(batch.sample_ids.tolist()):
        block = int(dataset.blocks_of_rows([row])[0])
        columns, place = read_block(dataset, block), row - int(dataset.first_row[block])
        assert batch.encoder_ids[i, : batch.encoder_mask[i].sum()].tolist() == columns["encoder_ids"][place].tolist()
        assert batch.llm_ids[i, : batch.llm_mask[i].sum()].tolist() == columns["llm_ids"][place].tolist()
        assert (batch.encoder_ids[i, batch.encoder_mask[i].sum() :] == dataset.tokenizers["encoder"].pad_id).all()
        assert batch.extras["label"][i] == columns["label"][place]


def test_a_rank_without_a_lane_of_its_own_gets_a_batch_without_weight(dataset):
    stream = TrainStream(dataset, OrderSettings(lanes=3), rank=1, world_size=2)
    first = next(iter(stream))
    assert stream.micro_batches_per_step == 2
    assert [bool(batch.valid.any()) for batch in first.micro_batches] == [True, False]
    assert first.micro_batches[1].encoder_mask.sum() == 1
    assert first.micro_batches[1].sample_ids.tolist() == [-1]


@given(schedule=schedules, world_size=st.integers(1, 5))
@settings(max_examples=20)
def test_a_forward_holds_the_same_on_any_number_of_ranks_that_leaves_it_whole(dataset, schedule, world_size):
    def forwards(world_size):
        found = {}
        for rank in range(world_size):
            stream = TrainStream(dataset, schedule, rank=rank, world_size=world_size)
            for first, batch in zip(stream.first_lanes, next(iter(stream)).micro_batches, strict=True):
                if batch.valid.any():
                    found[first] = batch.sample_ids.tolist()
        return found

    alone, spread = forwards(1), forwards(world_size)
    assert list(alone) == list(range(0, schedule.lanes, schedule.cells_per_forward))
    if world_size * schedule.cells_per_forward <= schedule.lanes:
        assert spread == alone
    assert sorted(i for rows in spread.values() for i in rows) == sorted(i for rows in alone.values() for i in rows)


@pytest.mark.parametrize("limit", [None, 1, 50])
@pytest.mark.parametrize("world_size", [1, 3])
def test_validation_sees_every_sample_once(dataset, limit, world_size):
    streams = [EvalStream(dataset, rank=r, world_size=world_size, batch_size=7, limit=limit) for r in range(world_size)]
    assert len({len(stream) for stream in streams}) == 1
    rows = [i for stream in streams for batch in stream for i in batch.sample_ids[batch.valid].tolist()]
    assert len(rows) == len(set(rows)) == (limit or sum(SAMPLES.values()))
    if limit == 50:
        assert len(set(dataset.index.language[dataset.blocks_of_rows(rows)].tolist())) == 3


def test_a_cursor_that_does_not_fit_is_refused_with_a_reason(dataset, shard_settings, tmp_path):
    from dataclasses import replace

    from mtllm_ds.data.writing.builder import build_shards

    schedule = OrderSettings(lanes=4)
    cursor = next(iter(TrainStream(dataset, schedule, seed=1))).cursor
    TrainStream(dataset, with_changes(schedule, cells_per_forward=2), seed=1, cursor=cursor)
    refused = [
        (with_changes(schedule, lanes=5), 1, cursor, r"data\.lanes=5, but the checkpoint's run has 4"),
        (with_changes(schedule, mixing=MixingSettings(cycle_draws=9)), 1, cursor, r"data\.mixing="),
        (with_changes(schedule, queue_size=9), 1, cursor, r"data\.queue_size"),
        (schedule, 1, cursor | {"version": 3}, "of version 3, this code reads 4"),
        (schedule, 2, cursor, r"run\.seed=2, but"),
        (schedule, 1, cursor | {"version": 0}, "of version 0"),
    ]
    for changed, seed, given_cursor, reason in refused:
        with pytest.raises(UserError, match=reason):
            TrainStream(dataset, changed, seed=seed, cursor=given_cursor)
    other = build_shards(replace(shard_settings, block_samples=8), tmp_path / "other", num_workers=1)
    with pytest.raises(UserError, match="made on another data set"):
        TrainStream(other, schedule, seed=1, cursor=cursor)


def test_impossible_settings_are_refused(dataset):
    with pytest.raises(UserError, match=r"data\.lanes=4: fewer than the 5 ranks"):
        TrainStream(dataset, OrderSettings(lanes=4), rank=4, world_size=5)
    with pytest.raises(UserError, match="set both or none"):
        TrainStream(dataset, OrderSettings(llm_tokens_per_cell=100))
    with pytest.raises(UserError, match="longest sample has"):
        TrainStream(dataset, OrderSettings(llm_tokens_per_cell=20, encoder_tokens_per_cell=200))


def test_an_empty_batch_is_one_row_without_weight():
    batch = Collator(pad_ids={"encoder": 1, "llm": 5}, packing_buckets=2)([])
    assert batch.encoder_ids.tolist() == [[1]]
    assert batch.llm_ids.tolist() == [[5]]
    assert batch.valid.tolist() == [False]
    assert batch.to("cpu").llm_mask.tolist() == [[1]]
    assert [ids.tolist() for ids in batch.packed.encoder_buckets] == [[[1]], [[1]]]
    assert batch.packed.llm_ids.tolist() == [[5]]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("budgets", [False, True])
def test_a_step_tells_the_languages_of_the_next_ones_first_forward(dataset, num_workers, budgets):
    chosen = {"encoder_tokens_per_cell": 160, "llm_tokens_per_cell": 256} if budgets else {"samples_per_cell": 2}
    schedule, told = OrderSettings(lanes=5, cells_per_forward=2, **chosen), set()
    for rank in range(2):
        stream = TrainStream(dataset, schedule, rank=rank, world_size=2, num_workers=num_workers)
        steps = list(islice(stream, 9))
        for step, following in pairwise(steps):
            first = following.micro_batches[0]
            codes = [first.language_codes[language] for language in first.languages[first.valid].tolist()]
            assert step.coming == tuple(dict.fromkeys(codes))
            told.add(step.coming)
    assert len(told) > 1
