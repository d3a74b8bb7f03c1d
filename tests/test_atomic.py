"""What killed writers leave behind is cleared, and nothing else."""

import json
import math

import numpy as np
import pytest

from mtllm_ds import atomic


def test_figures_are_numbers_by_name(tmp_path):
    path = tmp_path / "deep" / "summary.json"
    atomic.write_figures(path, {"a/b": 1, "c": np.float64(0.5), "no such": math.nan, "nor this": math.inf})
    assert json.loads(path.read_text()) == {"a/b": 1, "c": 0.5}
    for value in ("text", True, None, {"deeper": 1.0}, [1.0]):
        with pytest.raises(AssertionError, match="odd is no number"):
            atomic.write_figures(path, {"odd": value})
    assert json.loads(path.read_text()) == {"a/b": 1, "c": 0.5}


def test_leftovers_go_and_what_was_being_replaced_comes_back(tmp_path):
    for name in (".step_00000004.123.tmp", ".step_00000002.77.old", ".new.9.old", "step_00000002", ".git", ".a.b.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "inside").write_text(name)
    for name in (".best.json.55.tmp", ".lock", "best.json", ".odd.tmp"):
        (tmp_path / name).write_text(name)
    atomic.remove_leftovers(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".a.b.tmp", ".git", ".lock", ".odd.tmp", "best.json", "new", "step_00000002"]
    assert (tmp_path / "new" / "inside").read_text() == ".new.9.old"
    assert (tmp_path / "step_00000002" / "inside").read_text() == "step_00000002"
    atomic.remove_leftovers(tmp_path / "missing")
