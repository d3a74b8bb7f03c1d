"""What DeepSpeed fetches ahead survives two models in one pass: its trace of a step holds in the next, whatever comes between."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.training.assemble import open_run
from tests.distributed.ranks import PARTITIONED, ranks
from tests.fixtures.runs import losses_of, make_run, settings_of

STEPS = 5
ZERO = json.loads(Path(PARTITIONED).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("prefetch"))


def fetched(recipe, overrides):
    """On a rank, of each training step: (traces thrown away, modules whose weights were away when they ran, and those that had
    come ahead)."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator as Coordinator
    from deepspeed.runtime.zero.partitioned_param_coordinator import iter_params, z3_leaf_module

    fetch, invalidate = Coordinator.fetch_sub_module, Coordinator._invalidate_trace
    seen = [0, 0, 0]

    def fetching(self, module, forward):
        found = [p.ds_status for p in iter_params(module, recurse=z3_leaf_module(module))]
        seen[1] += ZeroParamStatus.NOT_AVAILABLE in found
        seen[2] += ZeroParamStatus.INFLIGHT in found and ZeroParamStatus.NOT_AVAILABLE not in found
        return fetch(self, module, forward)

    def invalidating(self):
        seen[0] += 1
        return invalidate(self)

    Coordinator.fetch_sub_module, Coordinator._invalidate_trace = fetching, invalidating
    steps = []
    try:
        trainer = open_run(settings_of(recipe, **overrides), join_cluster(), False, Console(quiet=True))
        take = trainer._take_step

        def counted(*step):
            seen[1:] = 0, 0
            take(*step)
            steps.append(tuple(seen))
            seen[0] = 0  # from here on what validation or a checkpoint throws away is the next step's

        trainer._take_step = counted
        trainer.run()
        trainer.close()
    finally:
        Coordinator.fetch_sub_module, Coordinator._invalidate_trace = fetch, invalidate
    return steps


@pytest.mark.parametrize("zero", [{}, {"zero_hpz_partition_size": 2}], ids=["plain", "hpZ"])
def test_no_step_throws_its_trace_away_and_weights_come_ahead(recipe, zero, tmp_path):
    ahead = ZERO["zero_optimization"] | {
        "stage3_prefetch_bucket_size": 5000, "stage3_max_live_parameters": 10**9, **zero,
    }  # fmt: skip
    (tmp_path / "ahead.json").write_text(json.dumps(ZERO | {"zero_optimization": ahead}))
    overrides = {
        "run__output_dir": str(recipe.parent / f"ahead_{len(zero)}"), "run__max_steps": STEPS, "run__validate_every": 3,
        "run__save_every": 3, "training__deepspeed": str(tmp_path / "ahead.json"), "training__whole_frozen_gib": 0,
        "model__paired_sweep": "true", "training__activation_checkpointing": "true",
    }  # fmt: skip
    one, other = ranks(2).run(fetched, recipe, overrides)
    assert one == other
    for thrown_away, late, ahead_of_time in one[2:]:
        assert (thrown_away, late) == (0, 0)
        assert ahead_of_time > 5
    assert len(losses_of(settings_of(recipe, **overrides))) == STEPS


def first_layer_when_the_encoder_begins(recipe, overrides):
    """On a rank, each time that the encoder begins in training: whether weights of the LLM's first layer are on their way."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    from mtllm_ds.models.encoders import StackEncoder
    from mtllm_ds.models.paired import layers_of
    from mtllm_ds.models.readers import base_of

    begin, seen = StackEncoder.forward, []
    trainer = open_run(settings_of(recipe, **overrides), join_cluster(), False, Console(quiet=True))
    owner, place = layers_of(base_of(trainer.objective.student.llm))
    weights = [p for p in owner.get_submodule(place)[0].parameters() if not p.requires_grad]

    def beginning(self, *args):
        seen.append(any(p.ds_status == ZeroParamStatus.INFLIGHT for p in weights))
        return begin(self, *args)

    StackEncoder.forward = beginning
    try:
        trainer.run()
        trainer.close()
    finally:
        StackEncoder.forward = begin
    return seen


def test_the_first_layer_comes_while_the_encoder_reads(recipe, tmp_path):
    """From the third step on, when the order of modules is known."""
    ahead = ZERO["zero_optimization"] | {"stage3_prefetch_bucket_size": 5000, "stage3_max_live_parameters": 10**9}
    (tmp_path / "ahead.json").write_text(json.dumps(ZERO | {"zero_optimization": ahead}))
    overrides = {
        "run__output_dir": str(recipe.parent / "beside_the_encoder"), "run__max_steps": STEPS, "run__validate_every": 100,
        "training__deepspeed": str(tmp_path / "ahead.json"),
    }  # fmt: skip
    one, other = ranks(2).run(first_layer_when_the_encoder_begins, recipe, overrides)
    forwards = len(one) // STEPS
    assert forwards > 0
    assert all(one[2 * forwards :])
    assert all(other[2 * forwards :])
