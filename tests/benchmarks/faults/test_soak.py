"""Memory that grows is seen, and memory that does not is not; a soak that is started again is the same."""

import json

import pytest
import torch

from benchmarks.faults.injection import MEMORY, record_memory
from benchmarks.faults.soak import _draw_fault, growth, is_as_promised, plan
from mtllm_ds.cluster.watch import Watch


def test_growth_is_that_of_the_last_quarter_over_the_second(tmp_path):
    for rank, slope in ((0, 0), (1, 10)):
        rows = [{"process": 7, "step": n, "allocated_bytes": 1000 + slope * n, "python_blocks": 50} for n in range(40)]
        short = [
            {**row, "process": 8, "allocated_bytes": 9**n} for n, row in enumerate(rows[:9])
        ]  # killed early: says nothing
        lines = [json.dumps(row) + "\n" for row in [*rows, *short]]
        (tmp_path / MEMORY.format(rank=rank)).write_text("".join(lines) + '{"process": 9, "st')  # killed in a line
    found = growth(tmp_path, 40)
    assert found["memory-rank-0/allocated_bytes/growth"] == 0
    assert found["memory-rank-1/allocated_bytes/growth"] == pytest.approx(1345 / 1145 - 1)
    assert found["memory-rank-1/python_blocks/growth"] == 0


def test_the_process_that_grew_most_counts(tmp_path):
    rows = [
        {"process": process, "step": n, "allocated_bytes": 1000 + process * n, "python_blocks": 50}
        for process in (0, 20, 10)
        for n in range(40)
    ]
    (tmp_path / MEMORY.format(rank=0)).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert growth(tmp_path, 40)["memory-rank-0/allocated_bytes/growth"] == pytest.approx(1690 / 1290 - 1)


def test_a_soak_that_is_started_again_keeps_its_length_and_its_faults(tmp_path):
    class Short:
        folder = tmp_path
        truth = {1: 1.0, 3: 1.0}  # noqa: RUF012

        def run(self, name):
            return tmp_path / name

    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "metrics.jsonl").write_text('{"loss": 1, "seconds": 9}\n{"loss": 1, "seconds": 9.5}\n')
    steps = plan(Short(), 0.5, None)
    assert steps == int(1800 * 0.45 / 0.5)
    (tmp_path / "soak").mkdir()
    (tmp_path / "truth" / "metrics.jsonl").unlink()
    assert plan(Short(), 0.5, None) == steps
    assert (tmp_path / "soak").exists()
    assert _draw_fault(3, 10, steps, tmp_path) == _draw_fault(3, 10, steps, tmp_path)
    assert len({_draw_fault(number, 10, steps, tmp_path) for number in range(9)}) > 5


def test_what_is_promised_of_a_soak():
    good = {
        "steps": 40, "steps_of_the_undisturbed_run": 40, "largest_relative_difference_of_a_loss": 0.0, "ranks_that_hung": 0,
        "a/growth": 0.01,
    }  # fmt: skip
    assert is_as_promised(good)
    for change in (
        {"steps": 39},
        {"largest_relative_difference_of_a_loss": 1e-3},
        {"ranks_that_hung": 1},
        {"b/growth": 0.04},
    ):
        assert not is_as_promised(good | change)


def test_bytes_that_are_held_are_counted_and_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(Watch, "enter", lambda *_: None)
    record_memory(tmp_path, 0)
    Watch.enter(None, "data", 1)
    held = [torch.ones(1_000_000), b"x" * 3_000_000]
    Watch.enter(None, "data", 2)
    Watch.enter(None, "step", 2)
    del held
    Watch.enter(None, "data", 3)
    rows = [json.loads(line) for line in (tmp_path / MEMORY.format(rank=0)).read_text().splitlines()]
    before, during, after = (row["allocated_bytes"] for row in rows)
    assert during - before == pytest.approx(7_000_000, abs=200_000)
    assert after == pytest.approx(before, abs=200_000)
