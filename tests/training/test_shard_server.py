"""The server of the shards dies in the middle of a training: nothing is lost, repeated, or silent."""

import pytest

from benchmarks.faults.shard_server import ShardServer
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.training.assemble import run_training
from tests.distributed.ranks import RankError, ranks
from tests.fixtures.runs import losses_of, make_run, rows_of, settings_of

STEPS = 6
DIES_AT_ANSWER = 9
"""Of about twice as many blocks that both ranks read in so many steps, and a few for the start."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("served"))


@pytest.fixture
def server(recipe):
    made = ShardServer(recipe.parent / "train")
    yield made
    made.close()


@pytest.fixture(scope="module")
def truth(recipe):
    """Losses and counters of the same run from a folder."""
    return figures(run_on_two(recipe, "whole"))


def train(recipe, overrides, resume):
    """On a rank of a pool."""
    return run_training(settings_of(recipe, **overrides), join_cluster(), resume)


def overrides_of(recipe, name, **more):
    return {
        "run__output_dir": recipe.parent / name, "run__max_steps": STEPS, "run__save_every": 1, "run__keep_checkpoints": 99,
        "run__validate_every": 99, "data__remote__cache_bytes": 0, **more,
    }  # fmt: skip


def run_on_two(recipe, name, resume=False, **more):
    overrides = overrides_of(recipe, name, **more)
    assert ranks(2).run(train, recipe, overrides, resume) == [0, 0]
    return settings_of(recipe, **overrides)


def figures(settings):
    """Of a finished run: its losses, and how many samples of each language it has read."""
    last = [row for row in rows_of(settings) if "loss" in row][-1]
    return losses_of(settings), {key: value for key, value in last.items() if "samples" in key}


def assert_is(settings, truth):
    losses, counters = figures(settings)
    assert sorted(losses) == list(range(1, STEPS + 1))
    assert losses == pytest.approx(truth[0], rel=1e-6)
    assert counters == truth[1]


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_a_server_that_comes_back_changes_nothing(recipe, truth, server, on_error):
    server.start(DIES_AT_ANSWER)
    revival = server.start_after_death(seconds=0.5)
    settings = run_on_two(
        recipe, f"back-{on_error}", data__train=server.url, data__on_error=on_error,
        data__remote__attempts=20, data__remote__first_wait_seconds=0.05,
    )  # fmt: skip
    revival.join(10)
    assert not revival.is_alive(), "it never died"
    assert_is(settings, truth)


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_a_server_that_stays_away_ends_the_run_in_one_line_and_it_goes_on_later(recipe, truth, server, on_error):
    """Whatever may be skipped: a server that is away has damaged no block."""
    name = f"away-{on_error}"
    more = {
        "data__train": server.url, "data__on_error": on_error, "data__remote__attempts": 3,
        "data__remote__first_wait_seconds": 0.01, **({"data__max_skipped_share": 1.0} if on_error == "skip" else {}),
    }  # fmt: skip
    server.start(DIES_AT_ANSWER)
    with pytest.raises(RankError) as caught:
        run_on_two(recipe, name, **more)
    assert server.is_dead
    told = [error for error in caught.value.errors if error[0] == "UserError"]
    assert len(told) == 1
    assert f"data set {server.url}: cannot read '{server.url}/" in told[0][1]
    assert "after 3 attempts" in told[0][1]
    assert "\n" not in told[0][1]
    server.start()
    assert_is(run_on_two(recipe, name, "auto", **more), truth)
