"""The server of the shards dies in the middle of a training, or a reader process does: nothing is lost, repeated, or silent."""

import multiprocessing
import os
import signal

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


def kill_a_reader():
    """On a rank: what a system out of memory does to it."""
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)


def train_until_a_reader_is_killed(recipe, overrides):
    """On a rank of a pool: rank 1 loses its readers in step 3."""
    from mtllm_ds.training.engine import Engine

    cluster, backward, calls = join_cluster(), Engine.backward, []

    def struck(*given):
        calls.append(1)
        if cluster.rank == 1 and len(calls) == 5:  # two forwards per step
            kill_a_reader()
        return backward(*given)

    Engine.backward = struck
    try:
        return run_training(settings_of(recipe, **overrides), cluster, False)
    finally:
        Engine.backward = backward


def test_a_reader_process_that_is_killed_ends_the_run_in_one_line_and_it_goes_on(recipe, truth):
    more = {"data__num_workers": 1}
    with pytest.raises(RankError) as caught:
        ranks(2).run(train_until_a_reader_is_killed, recipe, overrides_of(recipe, "reader", **more))
    quiet, told = caught.value.errors
    assert quiet[0] == "PeerFailedError"
    assert told[0] == "UserError"
    assert "a reader process died" in told[1]
    assert_is(run_on_two(recipe, "reader", "auto", **more), truth)


PASSWORD, TOKEN, KEY = "word-of-the-server", "hf_AbCdEfGhIjKlMnOpQr", "key-of-the-bucket"


def train_with_secrets(recipe, overrides, netrc):
    """On a rank of a pool, with whatever a user's environment may hold."""
    before = dict(os.environ)
    os.environ |= {"NETRC": str(netrc), "HF_TOKEN": TOKEN, "AWS_SECRET_ACCESS_KEY": KEY, "WANDB_API_KEY": KEY}
    try:
        return train(recipe, overrides, False)
    finally:
        os.environ.clear()
        os.environ |= before


def test_what_a_run_saves_holds_no_secret_and_nothing_that_could_run_code(recipe, truth, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login reader password {PASSWORD}\n")
    netrc.chmod(0o600)
    server = ShardServer(recipe.parent / "train", login=f"reader:{PASSWORD}")
    server.start()
    try:
        overrides = overrides_of(recipe, "secrets", data__train=server.url, run__tensorboard=True)
        assert ranks(2).run(train_with_secrets, recipe, overrides, netrc) == [0, 0]
    finally:
        server.close()
    assert_is(settings_of(recipe, **overrides), truth)
    files = [path for path in (recipe.parent / "secrets").rglob("*") if path.is_file()]
    for path in files:
        held = [word for word in (PASSWORD, TOKEN, KEY) if word.encode() in path.read_bytes()]
        assert not held, path
    own = [path for path in files if path.parent.name != "tensorboard" and path.name != ".lock"]
    assert {path.suffix for path in own} == {".yaml", ".jsonl", ".json", ".safetensors"}


@pytest.mark.parametrize(
    "url", [f"http://reader:{PASSWORD}@127.0.0.1:1/set", f"http://127.0.0.1:1/set?signature={PASSWORD}"]
)
def test_a_url_with_a_secret_is_refused_before_anything_is_saved(recipe, url):
    with pytest.raises(RankError, match="would be saved with the run") as caught:
        run_on_two(recipe, "refused", data__train=url)
    assert PASSWORD not in str(caught.value).splitlines()[0]
    assert not (recipe.parent / "refused").exists()
