"""The worst of `make faults`, on tiny models: a rank that is stopped, holds its interpreter, does not return, or dies."""

import json

import pytest

from benchmarks.faults import faults
from benchmarks.faults.injection import KINDS, NAN, PLACES
from benchmarks.faults.runs import Material, Outcome, _named
from tests.fixtures.dialogue_runs import make_dialogue_run

BOUND_SECONDS = 15.0


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    recipe = make_dialogue_run(folder)
    rollouts = "objective.rollouts={max_new_tokens: 3, share: 0.5}"
    return Material(folder / "cases", ["--recipe", str(recipe), rollouts, "data.num_workers=0"], BOUND_SECONDS)


@pytest.mark.parametrize(
    ("kind", "place", "rank", "why"),
    [
        ("SIGSTOP", "save", 0, "stopped by a signal"),
        ("GIL held", "save", 1, "held by a call that lets no other thread run"),
        ("sleep", "evaluation", 1, "it has begun"),
        ("SIGKILL", "rollout", 1, "died while"),
    ],
)
def test_a_fault_ends_the_run_in_time_with_its_rank_and_phase_and_nothing_is_lost(material, kind, place, rank, why):
    outcome = material.strike(kind, place, rank)
    assert outcome.mistakes == []
    assert why in outcome.said


def test_a_loss_that_is_not_finite_on_one_rank_stops_all_at_a_step_that_is_not_logged(material):
    outcome = material.strike(NAN, "step", 1, "run.log_every=2")
    assert outcome.mistakes == []
    assert "step 3: rank 1 could not take it soundly" in outcome.said


def test_a_polite_signal_in_a_save_ends_in_good_order_whatever_an_interrupted_case_has_left(material):
    left = material.folder / "SIGTERM in a save, rank 0"
    (left / "run").mkdir(parents=True)
    (left / "struck").write_text("long ago")
    (left / "run" / "config.yaml").write_text("")
    assert material.strike("SIGTERM", "save", 0).mistakes == []


def test_a_rank_is_killed_by_time_in_a_save(material):
    outcome = material.strike("SIGKILL", "save", 0, share_of_save=0.0)
    assert outcome.mistakes == []
    assert "died while saving step 4" in outcome.said
    assert outcome.saved == 2


def test_the_table_tells_what_is_not_as_promised():
    said = "watch: rank 0 (process 7 on a) died while taking step 3\n"
    assert _named(said, "SIGKILL", "step", 0, [-9, 1]) == (said.strip(), [])
    assert _named(said, "SIGKILL", "step", 1, [1, -9])[1][0].startswith("rank 1 is not named")
    assert "is not named" in _named(said, "SIGKILL", "save", 0, [-9, 1])[1][0]
    assert _named(said, "SIGKILL", "save", 0, [-9, 1], anywhere=True)[1] == []
    assert _named(said, "SIGKILL", "step", 0, [-9, 0])[1] == ["a rank ended as if all were well"]
    lost = "step_4: cannot be written (RuntimeError); NOT SAVED: training goes on, and the checkpoints before it stay; make room"
    assert _named(f"step 4/6\n{lost}\n", "exception", "save", 0, [0, 0]) == (lost, [])
    assert _named("step 4/6", "exception", "save", 0, [0, 0])[1] == ["a save that failed is not told"]
    assert "a rank ended as if all were well" in _named(lost, "exception", "step", 0, [0, 0])[1]
    assert _named("", "SIGTERM", "step", 0, [85, 1])[1] == ["no good order: [85, 1]"]
    nan = "error: step 3: rank 1 could not take it soundly (its loss nan)"
    assert _named(nan, NAN, "step", 1, [3, 3]) == (nan, [])
    assert _named(nan, NAN, "step", 0, [3, 3])[1] == ["not stopped by all: [3, 3]"]
    assert (len(KINDS), len(PLACES)) == (11, 4)


def test_results_are_written_once_no_case_is_missing(tmp_path, monkeypatch, capsys):
    names = ["one", "two"]
    made = {name: lambda n=name: Outcome(n, 1.0, [0, 0], f"watch: {n}", 6, [], f"commit-of-{n}") for name in names}
    material = type("Nothing", (), {"truth": {1: 1.0}, "folder": tmp_path})()
    monkeypatch.setattr(faults, "embedded_material", lambda folder: material)
    monkeypatch.setattr(faults, "cases", lambda *_: made)
    results = tmp_path / "results"
    words = ["faults", "--output", str(tmp_path / "out"), "--results", str(results)]
    monkeypatch.setattr("sys.argv", [*words, "--only", "one"])
    assert faults.main() == 0
    assert not results.exists()
    assert "1 of 2 cases are missing" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", words)
    assert faults.main() == 0
    origin = json.loads((results / "provenance.json").read_text())
    assert origin["cases_by_commit"] == {"commit-of-one": 1, "commit-of-two": 1}
    assert json.loads((results / "summary.json").read_text())["cases_as_promised"] == 2
