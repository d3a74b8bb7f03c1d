"""Cells are what the plain rule says, full, and known at any position."""

import sys
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtllm_ds.data.stream import filling
from mtllm_ds.data.stream.epochs import EpochStream, LanguageSamples
from mtllm_ds.data.stream.filling import Budgets, CellStream, fill_cells

lists_of_lengths = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=40)
SIDE = 50


def plain_rule(lengths, queue, first_epoch, epoch):
    """The rule said slowly: the oldest, then, of those that wait and of the first epoch not yet through, the longest that fits."""
    epochs = [0 if i < first_epoch else 1 + (i - first_epoch) // epoch for i in range(len(lengths))]
    coming, waiting, cells = list(range(len(lengths))), [], []
    while coming or waiting:
        while coming and len(waiting) < queue:
            waiting.append(coming.pop(0))
        cell, left = [], [60, SIDE]
        while waiting:
            fitting = [i for i in waiting if lengths[i][0] <= left[0] and lengths[i][1] <= left[1]]
            fitting = [i for i in fitting if epochs[i] == epochs[waiting[0]]]
            if not fitting:
                break
            chosen = max(fitting, key=lambda i: (lengths[i][1], lengths[i][0], -i)) if cell else waiting[0]
            cell.append(chosen)
            waiting.remove(chosen)
            left = [left[0] - lengths[chosen][0], left[1] - lengths[chosen][1]]
        cells.append(cell)
    return cells


@given(lengths=lists_of_lengths, queue=st.integers(1, 12), first_epoch=st.integers(1, 20), epoch=st.integers(1, 20))
@settings(max_examples=300)
def test_cells_follow_the_plain_rule(lengths, queue, first_epoch, epoch):
    encoder, llm = np.array(lengths).T
    order, ends = fill_cells(encoder, llm, Budgets(60, SIDE, queue), first_epoch, epoch)
    cells = [cell.tolist() for cell in np.split(order, ends[:-1])]
    assert cells == plain_rule(lengths, queue, first_epoch, epoch)


def lines_run(work):
    """How many lines of the module `work` runs: a measure that no machine changes."""
    found = 0

    def inside(frame, event, _):
        nonlocal found
        found += event == "line"
        return inside

    sys.settrace(lambda frame, *_: inside if frame.f_code.co_filename == filling.__file__ else None)
    try:
        work()
    finally:
        sys.settrace(None)
    return found


@pytest.mark.parametrize("epoch", [3, 20, 10**9])
def test_a_queue_of_many_epochs_costs_no_more_for_each_sample(epoch):
    """Of a tiny language 2^14 waiting samples are hundreds of epochs, none of which but one can be taken from."""
    lengths = np.random.default_rng(0).integers(5, 41, 3000)
    costs = [
        lines_run(partial(fill_cells, lengths * 0, lengths, Budgets(0, 200, queue), epoch, epoch)) / len(lengths)
        for queue in (64, 2**14)
    ]
    assert max(costs) < 40
    assert costs[1] < 1.1 * costs[0]


def stream_of(sizes, seed=0, stretch=30):
    first_row = np.concatenate([[0], np.cumsum(sizes)])
    samples = EpochStream(LanguageSamples(np.arange(len(sizes)), np.array(sizes)), 0, first_row, seed)
    lengths = np.random.default_rng(seed).integers(1, 30, (2, sum(sizes)))
    return CellStream(samples, *lengths, Budgets(SIDE, SIDE, 8), stretch)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    seed=st.integers(0, 99),
    start=st.integers(0, 200),
    length=st.integers(0, 100),
)
@settings(max_examples=150)
def test_cells_are_known_at_any_position(sizes, seed, start, length):
    """Independent truth: the stream of cells from its beginning."""
    whole = stream_of(sizes, seed).cells(0, 400)
    part = stream_of(sizes, seed).cells(start, start + length)
    inside = [i for i, place in enumerate(whole.starts.tolist()) if start <= place < start + length]
    assert [rows.tolist() for rows in part.rows] == [whole.rows[i].tolist() for i in inside]
    assert part.starts.tolist() == whole.starts[inside].tolist()
    assert part.samples_before == min(place for place in whole.starts.tolist() if place >= start)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), seed=st.integers(0, 99))
@settings(max_examples=100)
def test_epochs_follow_one_another_cell_by_cell(sizes, seed):
    stream = stream_of(sizes, seed)
    cells = stream.cells(0, 300)
    times = np.zeros(sum(sizes), np.int64)
    for rows in cells.rows:
        np.add.at(times, rows, 1)
        assert times.max() - times.min() <= 1
    epochs = stream.epochs(cells)
    assert (np.diff(epochs) >= 0).all()
    seen = {}
    for number, start, rows in zip(epochs.tolist(), cells.starts.tolist(), cells.rows, strict=True):
        own = {position // sum(sizes) for position in range(start, start + len(rows))}
        if number in seen:  # shared: one epoch, and no other cell has any of the next
            assert own == seen[number]
            assert len(own) == 1
        seen[number] = own


def test_cells_are_full_where_epochs_are_short():
    """300 samples of 5 to 40 tokens in cells of 512: epochs of 13 cells, yet hardly more room is lost than in one endless epoch."""
    rng = np.random.default_rng(0)
    lengths = np.tile(rng.integers(5, 41, 300), 40)
    used = {}
    for epoch in (300, 10**9):
        _, ends = fill_cells(lengths, lengths, Budgets(512, 512, 128), epoch, epoch)
        used[epoch] = lengths.sum() / (512 * len(ends))
    assert used[10**9] > 0.995
    assert used[300] > 0.99
