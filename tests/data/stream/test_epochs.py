"""True epochs and shares, by property, on data sets that are only an index: any manifest, mixing, lanes, ranks and cells."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtllm_ds.config.data import MixingSettings, OrderSettings
from mtllm_ds.data.stream import order as order_module
from mtllm_ds.data.stream.epochs import EpochStream, LanguageSamples
from mtllm_ds.data.stream.order import Order
from mtllm_ds.data.stream.rounds import FixedRound, PackedRound
from mtllm_ds.data.stream.schedule import Schedule, cursor_of
from mtllm_ds.errors import UserError
from mtllm_ds.languages import FLORES_200

BLOCK = 8
TOKENS = {"encoder_tokens_per_cell": 40, "llm_tokens_per_cell": 40}


def manifest_of(samples_by_language, block=BLOCK):
    """What the order asks of a manifest: blocks of equal size by language, the last of each smaller."""
    sizes, languages = [], []
    for language, count in enumerate(samples_by_language):
        own = [block] * (count // block) + [count % block] * (count % block > 0)
        sizes += own
        languages += [language] * len(own)
    lengths = np.random.default_rng(0).integers(1, 20, sum(sizes))
    return SimpleNamespace(
        first_row=np.concatenate([[0], np.cumsum(sizes)]),
        index=SimpleNamespace(language=np.array(languages)),
        encoder_lengths=lengths,
        llm_lengths=lengths[::-1].copy(),
        num_samples=sum(sizes),
        languages=FLORES_200[: len(samples_by_language)],
        storage=SimpleNamespace(root="-"),
        hash="-",
    )


sets = st.lists(st.integers(1, 60), min_size=1, max_size=4)
queues = st.integers(1, 8)
rules = st.sampled_from(
    [
        MixingSettings(cycle_draws=5),
        MixingSettings(rule="temperature", temperature=3.0, cycle_draws=7),
        MixingSettings(rule="balanced", cycle_draws=4),
        MixingSettings(rule="unimax", max_epochs=2.0, budget_samples=500, cycle_draws=9),
    ]
)
phased = MixingSettings(cycle_draws=2, phases=({"from_step": 5, "rule": "temperature", "temperature": 9.0},))
mixings = rules | st.just(phased)


def counts_by_step(order, steps, ranks=1):
    """(steps, rows) how often each row was emitted up to each step, over all ranks."""
    lanes = order.settings.lanes
    schedules = [Schedule(order, range(rank, lanes, ranks)) for rank in range(ranks)]
    times = np.zeros((steps, int(order.first_row[-1])), np.int64)
    for step in range(steps):
        for schedule in schedules:
            for cell in schedule.next_cells().values():
                np.add.at(times[step], cell, 1)
    return times.cumsum(0)


cells = st.builds(dict, samples_per_cell=st.integers(1, 12)) | st.builds(
    dict,
    encoder_tokens_per_cell=st.integers(20, 400),
    llm_tokens_per_cell=st.integers(20, 400),
    queue_size=queues,
)


@given(
    samples=sets,
    lanes=st.integers(1, 20),
    ranks=st.integers(1, 5),
    cells=cells,
    mixing=mixings,
    seed=st.integers(0, 10**6),
)
@settings(max_examples=80)
def test_after_every_step_no_sample_was_seen_twice_before_all_were_seen_once(
    samples, lanes, ranks, cells, mixing, seed
):
    order = Order(manifest_of(samples), OrderSettings(lanes=lanes, mixing=mixing, **cells), seed)
    times = counts_by_step(order, 40, ranks)
    rows_of = np.repeat(np.arange(len(samples)), samples)
    for language, epoch in enumerate(order.shares.epochs):
        for step in times:
            own = np.sort(step[rows_of == language])[::-1]
            counted, left_out = own[: epoch.num_samples], own[epoch.num_samples :]  # a sub-sample leaves rows out
            assert counted.max() - counted.min() <= 1
            assert not left_out.any()


@given(samples=sets, lanes=st.integers(1, 20), cell=st.integers(1, 12), mixing=rules, seed=st.integers(0, 10**6))
@settings(max_examples=100)
def test_shares_of_samples_are_exact_within_one_draw_after_every_cycle(samples, lanes, cell, mixing, seed):
    order = Order(manifest_of(samples), OrderSettings(lanes=lanes, samples_per_cell=cell, mixing=mixing), seed)
    rows_of = np.repeat(np.arange(len(samples)), samples)
    size = mixing.cycle_draws
    taken = np.zeros(len(samples), np.int64)
    for draw in range(4 * size):
        rows = rows_of_draw(order, draw)
        assert len(rows) == order.draw_samples
        assert len(set(rows_of[rows].tolist())) == 1
        taken[rows_of[rows[0]]] += len(rows)
        if (draw + 1) % size == 0:
            exact = order.shares.shares * taken.sum()
            assert (np.abs(taken - exact) < order.draw_samples * (1 + 1e-6)).all()


@given(samples=sets, lanes=st.integers(1, 20), mixing=mixings, queue=queues, seed=st.integers(0, 10**6))
@settings(max_examples=20)
def test_under_token_budgets_every_round_takes_its_draws_within_one_cell(samples, lanes, mixing, queue, seed):
    """So shares of samples hold there within one draw and one cell."""
    chosen = OrderSettings(lanes=lanes, mixing=mixing, queue_size=queue, **TOKENS)
    order = Order(manifest_of(samples), chosen, seed)
    round = PackedRound(order, 0, 0)
    for number in range(1, 5):
        round = PackedRound(order, number, round.end)
        over = (
            round.samples_before(round.first_cell)
            - order.draws.drawn_before(number * order.round_draws) * order.draw_samples
        )
        assert (over >= 0).all()
        assert (over < TOKENS["llm_tokens_per_cell"]).all()  # a cell holds fewer samples: each has a token


def test_under_token_budgets_each_language_has_its_part_in_every_step_of_a_round_within_two_cells():
    samples = [3000, 2000, 500]
    order = Order(manifest_of(samples), OrderSettings(lanes=9, **TOKENS), 0)
    round = PackedRound(order, 0, 0)
    steps = round.end // 9
    assert steps > 20
    cells = np.zeros((steps, 3))
    for number in range(9 * steps):
        cells[number // 9, np.searchsorted(np.cumsum(samples), round.cell(number)[0], side="right")] += 1
    assert (np.abs(cells - cells.mean(0)) <= 2).all()
    assert cells.mean(0) / 9 == pytest.approx(np.array(samples) / sum(samples), abs=0.05)


@given(samples=sets, lanes=st.integers(1, 20), mixing=mixings, queue=queues, seed=st.integers(0, 10**6))
@settings(max_examples=50)
def test_under_token_budgets_cells_hold_one_language_and_fit(samples, lanes, mixing, queue, seed):
    chosen = OrderSettings(lanes=lanes, mixing=mixing, queue_size=queue, **TOKENS)
    order = Order(manifest_of(samples), chosen, seed)
    schedule = Schedule(order, range(lanes))
    for _ in range(20):
        cells = schedule.next_cells()
        assert list(cells) == list(range(lanes))
        for rows in cells.values():
            assert 0 < len(rows) <= queue
            assert order.encoder_lengths[rows].sum() <= TOKENS["encoder_tokens_per_cell"]
            assert order.llm_lengths[rows].sum() <= TOKENS["llm_tokens_per_cell"]
            assert len(set(np.searchsorted(np.cumsum(samples), rows, side="right").tolist())) == 1


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    start=st.integers(0, 100),
    count=st.integers(1, 30),
    lanes=st.integers(1, 9),
    seed=st.integers(0, 99),
)
@settings(max_examples=150)
def test_lanes_together_take_what_one_reader_takes(sizes, start, count, lanes, seed):
    """Independent truth: the stream read by one, position by position."""
    first_row = np.concatenate([[0], np.cumsum(sizes)])
    stream = EpochStream(LanguageSamples(np.arange(len(sizes)), np.array(sizes)), 0, first_row, seed)
    alone = [int(stream.rows_of_lane(position, 1, 0, 1)[0]) for position in range(start + count * lanes)]
    total = sum(sizes)
    for epoch in range(len(alone) // total):
        assert sorted(alone[epoch * total : (epoch + 1) * total]) == list(range(total))
    dealt = [stream.rows_of_lane(start, count, lane, lanes) for lane in range(lanes)]
    assert sorted(np.concatenate(dealt).tolist()) == sorted(alone[start:])


def kept_bytes(read):
    """Memory that is held after a call and was not before."""
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("sizes", [[3], [3] * 2000], ids=["many epochs", "one long"])
def test_what_a_stream_keeps_is_bounded(sizes):
    first_row = np.concatenate([[0], np.cumsum(sizes)])
    samples = LanguageSamples(np.arange(len(sizes)), np.array(sizes))
    stream = EpochStream(samples, 0, first_row, 0, cached_bytes=1 << 18)
    assert kept_bytes(lambda: stream.rows_of_lane(0, 6000, 0, 1)) < 1 << 18


def test_the_languages_of_a_reader_share_what_is_kept(monkeypatch):
    monkeypatch.setattr(order_module, "CACHED_BYTES", 1 << 18)
    order = Order(manifest_of([1600] * 30, block=100), OrderSettings(lanes=30, samples_per_cell=100), 0)
    assert kept_bytes(lambda: walk(order, 32)) < 1 << 19  # with the draws, and the last two blocks of each language


def test_a_lane_reads_whole_stretches_of_blocks():
    """A large set: 16 lanes, draws of a block each; a lane opens few blocks a draw."""
    order = Order(manifest_of([100_000], block=100), OrderSettings(lanes=16, samples_per_cell=4), 0)
    opened = [
        len(set((np.searchsorted(order.first_row, rows_of_draw(order, draw), side="right") - 1).tolist()))
        for draw in range(500)
    ]
    assert max(opened) <= 4
    assert np.mean(opened) < 2.5


def test_a_lane_reads_whole_stretches_of_blocks_under_token_budgets():
    """A block's samples go to few of 16 lanes, although short ones wait for many cells."""
    chosen = OrderSettings(lanes=16, encoder_tokens_per_cell=200, llm_tokens_per_cell=200, queue_size=50)
    order = Order(manifest_of([90_000, 60_000], block=100), chosen, 0)
    readers = {}
    for lane, cells in walk(order, 150).items():
        for rows in cells:
            for block in set((np.searchsorted(order.first_row, rows, side="right") - 1).tolist()):
                readers.setdefault(block, set()).add(lane)
    assert np.mean([len(lanes) for lanes in readers.values()]) < 2.5


def walk(order, steps):
    """Cells of all lanes, by lane."""
    schedule = Schedule(order, range(order.settings.lanes))
    taken = [schedule.next_cells() for _ in range(steps)]
    return {lane: [cells[lane] for cells in taken] for lane in schedule.lanes}


def rows_of_draw(order, draw):
    number, lane = divmod(draw, order.settings.lanes)
    return FixedRound(order, number).rows_of_lane(lane)


@pytest.mark.parametrize("lanes", [64, 1024])
def test_small_sets_on_many_lanes(lanes):
    """The cases that failed: 300 items of one task, and languages of 100 and 100,000 samples at equal weights."""
    order = Order(manifest_of([300], block=32), OrderSettings(lanes=lanes), 0)
    times = counts_by_step(order, 4)
    assert (times.max(1) - times.min(1) <= 1).all()
    packed = Order(manifest_of([300], block=32), OrderSettings(lanes=lanes, **TOKENS), 0)
    times = counts_by_step(packed, 4)
    assert (times.max(1) - times.min(1) <= 1).all()
    weights = {FLORES_200[0]: 0.5, FLORES_200[1]: 0.5}
    mixing = MixingSettings(rule="explicit", weights=weights, cycle_draws=64)
    order = Order(manifest_of([100, 100_000], block=256), OrderSettings(lanes=lanes, mixing=mixing), 0)
    schedule = Schedule(order, range(lanes))
    schedule.go_to(order.draw_samples // 4 * 8)
    taken = schedule.place.samples
    assert taken / taken.sum() == pytest.approx([0.5, 0.5], abs=1e-9)


@given(samples=sets, lanes=st.integers(1, 9), cells=cells, step=st.integers(0, 60), seed=st.integers(0, 99))
@settings(max_examples=60)
def test_going_to_a_step_is_the_same_as_walking_there(samples, lanes, cells, step, seed):
    manifest = manifest_of(samples)
    order = Order(manifest, OrderSettings(lanes=lanes, **cells), seed)
    walked, jumped = Schedule(order, range(lanes)), Schedule(order, range(lanes))
    taken = np.zeros(len(samples), np.int64)
    for _ in range(step):
        for rows in walked.next_cells().values():
            taken[np.searchsorted(np.cumsum(samples), rows[0], side="right")] += len(rows)
    jumped.go_to(step)
    assert cursor_of(walked.place, order, manifest) == cursor_of(jumped.place, order, manifest)
    assert walked.place.samples.tolist() == taken.tolist()
    here, there = walked.next_cells(), jumped.next_cells()
    assert all((here[lane] == there[lane]).all() for lane in range(lanes))


@given(samples=st.lists(st.integers(1, 300), min_size=1, max_size=6), limit=st.integers(1, 400))
@settings(max_examples=100)
def test_a_sample_of_the_validation_set_leaves_no_language_out(samples, limit):
    from mtllm_ds.data.stream.stream import rows_of_sample

    manifest = manifest_of(samples)
    manifest.samples_of_language = np.array(samples)
    rows = rows_of_sample(manifest, limit)
    assert len(rows) == len(set(rows.tolist())) == min(limit, sum(samples))
    rows_of = np.repeat(manifest.index.language, np.diff(manifest.first_row))
    counts = np.bincount(rows_of[rows], minlength=len(samples))
    if limit >= len(samples):
        assert counts.min() >= 1
        share = np.minimum(limit, sum(samples)) * np.array(samples) / sum(samples)
        assert (counts - share <= 1).all()


@pytest.mark.parametrize("cells", [{"samples_per_cell": 4}, TOKENS], ids=["fixed", "budgets"])
def test_phases_change_shares_at_their_step(cells):
    """Temperatures 1, 2 and 1,000 on languages of 900 and 100 samples."""
    phases = tuple({"from_step": step, "rule": "temperature", "temperature": t} for step, t in ((300, 2.0), (600, 1e3)))
    mixing = MixingSettings(rule="temperature", temperature=1.0, phases=phases, cycle_draws=20)
    order = Order(manifest_of([900, 100]), OrderSettings(lanes=4, mixing=mixing, **cells), 0)
    steps = [order.step_of_cycle(cycle) for cycle in order.first_cycles]
    cycle = order.step_of_cycle(1) + 1
    assert all(abs(step - asked) <= cycle for step, asked in zip(steps, (300, 600), strict=True))
    schedule, counts = Schedule(order, ()), []
    for step in (0, 260, 380, 560, 700, 900):
        schedule.go_to(step)
        counts.append(schedule.place.samples)
    for first, expected in ((0, 0.1), (2, 0.25), (4, 0.5)):
        taken = counts[first + 1] - counts[first]
        assert taken[1] / taken.sum() == pytest.approx(expected, abs=0.02)
    with pytest.raises(UserError, match=r"two begin within one cycle of 99999 draws"):
        Order(
            manifest_of([900, 100]), OrderSettings(mixing=mixing.model_copy(update={"cycle_draws": 99999}), **cells), 0
        )
