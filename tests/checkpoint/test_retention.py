"""The newest few checkpoints stay, and the best one beside them."""

import math

import pytest

from mtllm_ds.checkpoint.retention import best_step, drop_old, folder_to_use, is_better, note_best
from mtllm_ds.checkpoint.store import STATE, checkpoint_folders
from mtllm_ds.errors import UserError


def checkpoint(root, step, complete=True):
    folder = root / f"step_{step:08d}"
    folder.mkdir(parents=True)
    if complete:
        (folder / STATE).write_text("{}")
    return folder


def test_only_whole_checkpoints_count(tmp_path):
    checkpoint(tmp_path, 5)
    checkpoint(tmp_path, 10, complete=False)
    (tmp_path / ".step_00000015.1.tmp").mkdir()
    assert list(checkpoint_folders(tmp_path)) == [5]
    assert folder_to_use(tmp_path) == tmp_path / "step_00000005"


def test_the_newest_and_the_best_stay(tmp_path):
    for step in (1, 2, 3, 4):
        checkpoint(tmp_path, step)
    assert is_better(tmp_path, "eval_loss", {"eval_loss": 9.0}, "lower")
    note_best(tmp_path, 2, "eval_loss", 0.5)
    assert is_better(tmp_path, "eval_loss", {"eval_loss": 0.4}, "lower")
    assert not is_better(tmp_path, "eval_loss", {"eval_loss": 0.5}, "lower")
    drop_old(tmp_path, keep=1)
    assert list(checkpoint_folders(tmp_path)) == [2, 4]
    assert folder_to_use(tmp_path) == tmp_path / "step_00000002"


def test_those_of_every_so_many_steps_stay_for_good(tmp_path):
    for step in range(1, 10):
        checkpoint(tmp_path, step)
    drop_old(tmp_path, keep=2, keep_every=4)
    assert list(checkpoint_folders(tmp_path)) == [4, 8, 9]


def test_of_accuracies_the_highest_is_the_best(tmp_path):
    checkpoint(tmp_path, 1)
    note_best(tmp_path, 1, "eval_accuracy", 0.5)
    assert is_better(tmp_path, "eval_accuracy", {"eval_accuracy": 0.6, "eval_loss": 9.0}, "higher")
    assert not is_better(tmp_path, "eval_accuracy", {"eval_accuracy": 0.5, "eval_loss": 0.0}, "higher")


def test_another_figure_picks_the_best_anew(tmp_path):
    checkpoint(tmp_path, 1)
    note_best(tmp_path, 1, "eval_loss", 0.1)
    figures = {"eval_accuracy": 0.05, "eval_loss": 0.2}
    assert is_better(tmp_path, "eval_accuracy", figures, "higher")
    assert not is_better(tmp_path, "eval_loss", figures, "lower")


def test_a_best_that_is_gone_is_none(tmp_path):
    checkpoint(tmp_path, 1)
    note_best(tmp_path, 7, "eval_loss", 0.1)
    assert best_step(tmp_path) is None
    assert is_better(tmp_path, "eval_loss", {"eval_loss": 0.2}, "lower")
    assert folder_to_use(tmp_path) == tmp_path / "step_00000001"


def test_nothing_to_use(tmp_path):
    assert folder_to_use(tmp_path) is None


@pytest.mark.parametrize("better", ["lower", "higher"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_the_best_and_always_beaten(tmp_path, better, value):
    checkpoint(tmp_path, 1)
    assert not is_better(tmp_path, "eval_loss", {"eval_loss": value}, better)
    note_best(tmp_path, 1, "eval_loss", 0.5)
    assert not is_better(tmp_path, "eval_loss", {"eval_loss": value}, better)
    note_best(tmp_path, 1, "eval_loss", value)
    assert is_better(tmp_path, "eval_loss", {"eval_loss": 0.7}, better)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"step": "x", "value": 1}', '{"step": 1}', "[" * 100_000, "\x00"]
)
def test_a_damaged_record_is_told_in_one_line(tmp_path, content):
    checkpoint(tmp_path, 1)
    (tmp_path / "best.json").write_text(content)
    with pytest.raises(UserError, match=r"best\.json: damaged .*; remove it") as raised:
        best_step(tmp_path)
    assert len(str(raised.value).splitlines()) == 1
