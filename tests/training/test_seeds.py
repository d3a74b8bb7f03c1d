"""Runs of several seeds, one after the other in one process: none keeps the weights of those before it."""

import gc

import pytest

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.objectives.base import Objective
from mtllm_ds.training.runs import run_seeds
from tests.distributed.ranks import PARTITIONED, ranks
from tests.fixtures.runs import make_run, settings_of


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("seeds"))


def left_after(recipe, overrides):
    """On a rank: how many more objectives are alive after runs of two seeds than before."""

    def alive():
        gc.collect()
        return sum(isinstance(thing, Objective) for thing in gc.get_objects())

    before = alive()
    assert run_seeds(settings_of(recipe, **overrides), join_cluster(), False) == 0
    return alive() - before


@pytest.mark.parametrize("file", ["zero2", "zero3", PARTITIONED], ids=["zero2", "zero3", "partitioned"])
def test_no_model_outlives_its_run(recipe, file):
    overrides = {
        "run__seeds": "[1,2]",
        "run__output_dir": str(recipe.parent / f"seeds-{len(file)}-{file[-5:]}"),
        "run__max_steps": 3,
        "training__deepspeed": file,
    }
    assert ranks(2).run(left_after, recipe, overrides) == [0, 0]
