"""Machines that see a run's folder differently (a listing that lags, folders of their own), or lack something on one rank: one
place to go on, or one line."""

import shutil

import pytest
from rich.console import Console

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.preflight import resume
from mtllm_ds.training import assemble
from mtllm_ds.training.assemble import open_run, run_training
from tests.distributed.ranks import RankError, ranks
from tests.fixtures.runs import make_run, settings_of


def train(recipe, overrides):
    """On a rank of a pool."""
    return run_training(settings_of(recipe, **overrides), join_cluster(), resume=False)


def go_on(recipe, folders, late_rank=None):
    """On a rank: the step at which a run starts again, where each rank has a folder and one does not list the newest checkpoint."""
    cluster, listed = join_cluster(), resume.checkpoint_folders
    if cluster.rank == late_rank:
        resume.checkpoint_folders = lambda root: dict(list(listed(root).items())[:-1])
    settings = settings_of(recipe, run__max_steps=3, run__output_dir=folders[cluster.rank])
    try:
        trainer = open_run(settings, cluster, True, Console(quiet=True))
        trainer.close()
        return trainer.start_step
    finally:
        resume.checkpoint_folders = listed


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Of a run with checkpoints of its two steps."""
    recipe = make_run(tmp_path_factory.mktemp("lagging"))
    assert ranks(2).run(train, recipe, {"run__max_steps": 2, "run__save_every": 1}) == [0, 0]
    return recipe


def told(recipe, folders):
    """The one line with which two ranks end that have such folders."""
    with pytest.raises(RankError) as caught:
        ranks(2).run(go_on, recipe, folders)
    kinds = [error[0] for error in caught.value.errors]
    assert kinds == ["PeerFailedError", "UserError"]
    assert len(caught.value.errors[1][1].splitlines()) == 1
    return caught.value.errors[1][1]


def test_a_rank_whose_listing_lags_goes_on_from_the_same_step(recipe):
    run = recipe.parent / "run"
    assert ranks(2).run(go_on, recipe, [run, run], 1) == [2, 2]


def test_a_rank_that_does_not_see_the_checkpoint_says_so(recipe, tmp_path):
    other = shutil.copytree(recipe.parent / "run", tmp_path / "run")
    shutil.rmtree(other / "checkpoints" / "step_00000002")
    assert "which another machine does not see; wait until it does" in told(recipe, [recipe.parent / "run", other])


def test_a_checkpoint_of_the_same_step_that_is_another_one_is_refused(recipe, tmp_path):
    other = shutil.copytree(recipe.parent / "run", tmp_path / "run")
    checkpoints = other / "checkpoints"
    shutil.rmtree(checkpoints / "step_00000002")
    (checkpoints / "step_00000001").rename(checkpoints / "step_00000002")
    assert "step_00000002 differs between machines" in told(recipe, [recipe.parent / "run", other])


def train_without(recipe, output, rank, name):
    """On each rank: a run where something of `assemble` fails on one of them."""
    cluster = join_cluster()
    with pytest.MonkeyPatch.context() as patch:
        if cluster.rank == rank:
            patch.setattr(assemble, name, no_memory)
        return run_training(settings_of(recipe, run__max_steps=2, run__output_dir=output), cluster, resume=False)


def no_memory(*_):
    raise OSError(12, "Cannot allocate memory")


def test_a_rank_that_can_start_no_watcher_stops_all_with_a_line(recipe, tmp_path):
    with pytest.raises(
        RankError, match=r"UserError: .*: no watcher can be started beside a rank .Cannot allocate"
    ) as caught:
        ranks(2).run(train_without, recipe, tmp_path, 1, "Watch")
    assert [error[0] for error in caught.value.errors] == ["PeerFailedError", "UserError"]


def test_a_finished_run_whose_log_is_gone_has_finished(recipe, tmp_path):
    assert ranks(2).run(train_without, recipe, tmp_path, 0, "read_rows") == [0, 0]
