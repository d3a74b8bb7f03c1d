"""Base models go on from finished runs and from what ships."""

import json

import pytest

from benchmarks.quality.cpu_clock import earlier_runs
from mtllm_ds.errors import UserError

RUNS = [{"core_seconds": 1.0, "steps": 2}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", {"runs": RUNS}),
        ("figures.json", {"runs": RUNS, "languages": {}}),
        ("figures.json", {"training": {"runs": RUNS}}),
    ],
)
def test_runs_of_a_summary_and_of_a_card(tmp_path, name, content):
    (tmp_path / name).write_text(json.dumps(content))
    assert earlier_runs(tmp_path) == RUNS


def test_a_start_without_a_history_is_refused(tmp_path):
    assert earlier_runs(None) == []
    with pytest.raises(UserError, match=r"neither summary\.json nor figures\.json"):
        earlier_runs(tmp_path)
