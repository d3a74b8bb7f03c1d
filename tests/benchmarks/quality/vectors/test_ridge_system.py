"""The ridge as a system answers tasks of one text an item, and says so of any other."""

import sys

import pytest

from benchmarks.quality.vectors import ridge_system
from mtllm_ds.errors import UserError
from tests.fixtures.tasks import save_task


def test_pairs_are_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    fields = {"segments": ["text", "text"]}
    path = save_task(tmp_path, 3, type="pair_classification", source={"folder": str(tmp_path), "fields": fields})
    (tmp_path / "task").mkdir()
    path.rename(tmp_path / "task" / "task.yaml")
    given = {"--mt": "none", "--teacher": "none", "--data": tmp_path, "--texts": 1, "--seed": 0, "--output": "none"}
    monkeypatch.setattr(sys, "argv", ["ridge_system", *(str(part) for pair in given.items() for part in pair)])
    with pytest.raises(UserError, match="the ridge reads one text an item, not pair_classification"):
        ridge_system.main()
