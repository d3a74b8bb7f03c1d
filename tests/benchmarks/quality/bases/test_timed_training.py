"""Base models go on from finished runs and from what ships, and stop when their time is spent."""

import json
import time
from types import SimpleNamespace

import pytest

from benchmarks.quality.bases.timed_training import Clock, earlier_runs
from mtllm_ds.errors import UserError

RUNS = [{"core_seconds": 1.0, "steps": 2}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("training.json", {"runs": RUNS}),
        ("figures.json", {"runs": RUNS, "languages": {}}),
        ("figures.json", {"training": {"runs": RUNS}}),
    ],
)
def test_runs_of_a_summary_and_of_a_card(tmp_path, name, content):
    (tmp_path / name).write_text(json.dumps(content))
    assert earlier_runs(tmp_path) == RUNS


def test_a_start_without_a_history_is_refused(tmp_path):
    assert earlier_runs(None) == []
    with pytest.raises(UserError, match=r"neither training\.json nor figures\.json"):
        earlier_runs(tmp_path)


@pytest.mark.parametrize(("device", "clock"), [("cpu", "process_time"), ("cuda", "perf_counter")])
def test_the_clock_counts_earlier_parts_and_stops_the_trainer(tmp_path, monkeypatch, device, clock):
    now = {"process_time": 100.0, "perf_counter": 100.0}
    for name in now:
        monkeypatch.setattr(time, name, lambda name=name: now[name])
    (tmp_path / "spent.json").write_text(json.dumps({"seconds": 40.0}))
    timed, control = Clock(1.0, tmp_path, device), SimpleNamespace(should_training_stop=False)
    now[clock] += 15.0
    assert timed.fraction() == pytest.approx(55 / 60)
    assert not timed.on_step_end(None, None, control).should_training_stop
    now[clock] += 5.0
    assert timed.on_step_end(None, None, control).should_training_stop
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    timed.on_save(SimpleNamespace(output_dir=tmp_path), SimpleNamespace(global_step=7), control)
    assert json.loads((folder / "spent.json").read_text()) == {"seconds": 60.0}
