"""The worst of `make faults`, on tiny models: a rank that is stopped, holds its interpreter, does not return, or dies."""

import pytest

from benchmarks.faults.injection import KINDS, PLACES
from benchmarks.faults.runs import Material, _named
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


def test_a_polite_signal_in_a_save_ends_in_good_order(material):
    assert material.strike("SIGTERM", "save", 0).mistakes == []


def test_the_table_tells_what_is_not_as_promised():
    said = "watch: rank 0 (process 7 on a) died while taking step 3\n"
    assert _named(said, "SIGKILL", "step", 0, [-9, 1], 0.0) == (said.strip(), [])
    assert _named(said, "SIGKILL", "step", 1, [1, -9], 0.0)[1][0].startswith("rank 1 is not named")
    assert "is not named" in _named(said, "SIGKILL", "save", 0, [-9, 1], 0.0)[1][0]
    assert _named(said, "SIGKILL", "step", 0, [-9, 0], 0.0)[1] == ["a rank ended as if all were well"]
    assert _named("", "SIGTERM", "step", 0, [85, 1], 0.0)[1] == ["no good order: [85, 1]"]
    assert (len(KINDS), len(PLACES)) == (11, 4)
