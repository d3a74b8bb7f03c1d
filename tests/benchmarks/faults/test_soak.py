"""Memory that grows is seen, and memory that does not is not."""

import json

import pytest
import torch

from benchmarks.faults.injection import MEMORY, record_memory
from benchmarks.faults.soak import growth
from mtllm_ds.cluster.watch import Watch


def test_growth_is_that_of_the_last_quarter_over_the_second(tmp_path):
    for rank, slope in ((0, 0), (1, 10)):
        rows = [{"step": n, "allocated_bytes": 1000 + slope * n, "python_blocks": 50} for n in range(40)]
        (tmp_path / MEMORY.format(rank=rank)).write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = growth(tmp_path)
    assert found["memory-rank-0/allocated_bytes/growth"] == 0
    assert found["memory-rank-1/allocated_bytes/growth"] == pytest.approx(1345 / 1145 - 1)
    assert found["memory-rank-1/python_blocks/growth"] == 0


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
