"""Which collectives a run makes is fixed: not by what a rank happens to see, and one all-reduce for a row of the log."""

import pytest
import torch
import torch.distributed as dist
from rich.console import Console

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.training.assemble import open_run
from tests.distributed.ranks import PARTITIONED, ranks
from tests.fixtures.runs import make_run, settings_of
from tests.fixtures.task_runs import make_task_run

COLLECTIVES = (
    "all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object", "reduce_scatter_tensor", "broadcast",
    "broadcast_object_list", "barrier",
)  # fmt: skip


def made(recipe, overrides):
    """On a rank: names and sizes of the collectives that a run makes between its first step and its end, and what it saw."""
    trainer = open_run(settings_of(recipe, **overrides), join_cluster(), False, Console(quiet=True))
    found, originals = [], {name: getattr(dist, name) for name in COLLECTIVES}

    def counted(name):
        def call(*args, **options):
            found.append((name, [arg.numel() for arg in args if isinstance(arg, torch.Tensor)]))
            return originals[name](*args, **options)

        return call

    seen, forward = [], trainer.objective.forward
    trainer.objective.forward = lambda batch: seen.append(batch.host.num_valid) or forward(batch)
    for name in COLLECTIVES:
        setattr(dist, name, counted(name))
    try:
        trainer.run()
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)
        trainer.close()
    return found, sum(seen)


def run(recipe, name, **overrides):
    overrides = {
        "run__output_dir": str(recipe.parent / name), "run__max_steps": 4, "run__validate_every": 2, "run__save_every": 4,
        "training__deepspeed": PARTITIONED, **overrides,
    }  # fmt: skip
    return ranks(2).run(made, recipe, overrides)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def topics(tmp_path_factory):
    return make_task_run(tmp_path_factory.mktemp("topics"))


UNEVEN = {"data__lanes": 3, "data__cells_per_forward": 1, "data__samples_per_cell": 1}
"""Two forwards on each rank, of which rank 1's second holds no sample."""
LLM = {"model__reader": "llm"}
RUNS = {
    "pooled_alignment": ("text", {}),
    "masked_next_token": ("text", {**LLM, "objective__name": "masked_next_token", "objective__mask_token": "e"}),
    "simcse of a step": ("text", {**LLM, "objective__name": "simcse", "objective__negatives": "step"}),
    "task_tuning": ("topics", LLM),
}


@pytest.mark.parametrize("name", RUNS)
def test_ranks_that_see_different_samples_make_the_same_collectives(request, name):
    kind, overrides = RUNS[name]
    (one, saw), (other, saw_less) = run(request.getfixturevalue(kind), name.replace(" ", "_"), **UNEVEN, **overrides)
    assert saw > saw_less
    assert one == other
    assert len(one) > 20


def test_a_row_of_the_log_costs_one_all_reduce(text):
    often, seldom = (run(text, f"log{every}", run__log_every=every)[0][0] for every in (1, 4))
    assert len(often) - len(seldom) == 3
    extra = list(often)
    for call in seldom:
        extra.remove(call)
    assert {name for name, _ in extra} == {"all_reduce"}
