"""Every DeepSpeed file that ships trains, stops and resumes on two ranks as `zero3` does; so does one that keeps nothing whole."""

import json
from pathlib import Path

import pytest
import torch

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.cluster.zero import partitioned_loading
from mtllm_ds.config.shipped import DEEPSPEED_FILES
from mtllm_ds.models.build import build_reader
from mtllm_ds.models.centring import LanguageCentring
from mtllm_ds.objectives.pooled_alignment import PooledAlignment
from mtllm_ds.preflight.plan import check_run
from mtllm_ds.teachers.frozen_self import FrozenSelf
from mtllm_ds.training import engine as engine_module
from mtllm_ds.training.engine import Engine
from tests.distributed.ranks import PARTITIONED, RankError, ranks
from tests.fixtures.runs import losses_of, make_run, settings_of
from tests.golden.cases import CASES, Material
from tests.golden.curves import curve_of
from tests.golden.test_golden import GOLDEN
from tests.training.test_runs import train_until, train_with

FILES = [*DEEPSPEED_FILES.names, PARTITIONED]
STEPS = 4


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("files"))


def chosen(recipe, name, file):
    return {
        "run__output_dir": str(recipe.parent / name),
        "run__max_steps": STEPS,
        "run__validate_every": 2,
        "training__deepspeed": file,
    }


@pytest.fixture(scope="module")
def truth(recipe):
    """Losses of a run under `zero3` that nobody stopped."""
    overrides = chosen(recipe, "zero3-whole", "zero3")
    assert ranks(2).run(train_with, recipe, False, overrides) == [0, 0]
    return losses_of(settings_of(recipe, **overrides))


@pytest.mark.parametrize("file", FILES, ids=lambda file: Path(file).stem)
def test_it_trains_stops_and_resumes_as_zero3_does(recipe, truth, file):
    overrides = chosen(recipe, f"stopped-{Path(file).stem}", file)
    assert ranks(2).run(train_until, recipe, 2, overrides) == [False, False]
    assert ranks(2).run(train_with, recipe, True, overrides) == [0, 0]
    found = losses_of(settings_of(recipe, **overrides))
    assert found == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("stage", [2, 3])
def test_an_optimizer_on_the_cpu_takes_the_gradients_of_all_forwards(recipe, stage):
    """Three forwards per step, and more gradients than a bucket holds: most leave before the backward's end."""
    settings = json.loads(Path(PARTITIONED).read_text(encoding="utf-8"))
    zero = settings["zero_optimization"] | {"stage": stage, "reduce_bucket_size": 500}
    losses = []
    for place in ("none", "cpu"):
        file = recipe.parent / f"stage{stage}-{place}.json"
        file.write_text(json.dumps({**settings, "zero_optimization": {**zero, "offload_optimizer": {"device": place}}}))
        overrides = chosen(recipe, f"offload-{stage}-{place}", str(file))
        assert ranks(1).run(train_with, recipe, False, overrides) == [0]
        losses.append(losses_of(settings_of(recipe, **overrides)))
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


ALL_TRAINED = ("balanced_teachers", "whole_words")
"""Nothing is frozen there that could stay whole."""


@pytest.mark.parametrize("name", CASES)
def test_every_objective_is_the_same_where_no_weight_stays_whole(name, material):
    shares = {} if name in ALL_TRAINED else {"training__whole_frozen_gib": 0}
    assert curve_of(material, name, 2, training__deepspeed=PARTITIONED, **shares) == [
        pytest.approx(row, rel=2e-5, abs=1e-7) for row in GOLDEN[f"{name}/2"]
    ]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return Material(tmp_path_factory.mktemp("partitioned"))


def whole_weights(recipe):
    """On a rank: how many parameters an engine of its own leaves whole, of how many."""
    cluster = join_cluster()
    settings = settings_of(recipe, training__deepspeed=PARTITIONED)
    engine, objective = engine_of(settings, cluster)
    parameters = list(objective.parameters())
    whole = sum(p.numel() > 0 for p in parameters)
    engine.close()
    return whole, len(parameters)


def engine_of(settings, cluster):
    plan = check_run(settings, cluster.world_size)
    with partitioned_loading(plan.ds_config):
        stack = build_reader(settings, cluster.device)
    stack.centring = LanguageCentring(torch.zeros(2, stack.encoder.hidden_size), torch.tensor([3, 4]))
    objective = PooledAlignment(stack, FrozenSelf(stack), 1)
    return Engine(objective, settings, plan.ds_config), objective


def test_no_weight_stays_whole_under_the_tests_own_file(recipe):
    for whole, total in ranks(2).run(whole_weights, recipe):
        assert whole == 0
        assert total > 20


def moved_buffers(recipe, file):
    """On a rank: names of the buffers that were not moved to the engine's device, and of those that there are.

    A device that is not the CPU is played by `meta`: parameters must stay, since they are DeepSpeed's to move.
    """
    cluster, there = join_cluster(), torch.device("meta")
    move = engine_module.buffers_to
    moved = []

    def spy(module, device):
        moved.append(device)
        move(module, there)

    engine_module.buffers_to = spy
    try:
        engine, objective = engine_of(settings_of(recipe, training__deepspeed=file), cluster)
    finally:
        engine_module.buffers_to = move
    assert moved == [engine.deepspeed.device]
    left = [name for name, buffer in objective.named_buffers() if buffer.device != there]
    assert not any(parameter.is_meta for parameter in objective.parameters())
    names = [name for name, _ in objective.named_buffers()]
    engine.close()
    return left, names


@pytest.mark.parametrize("file", ["zero2", "zero3"])
def test_every_buffer_goes_where_the_engine_is(recipe, file):
    for left, names in ranks(2).run(moved_buffers, recipe, file):
        assert left == []
        assert {"student.centring.means", "student.centring.tag_ids"} < set(names)


def test_ranks_that_no_group_of_copies_divides_are_refused_at_once(recipe):
    with pytest.raises(RankError, match=r"zero_hpz_partition_size=2.*3 ranks"):
        ranks(3).run(train_with, recipe, False, chosen(recipe, "odd", str(hpz_of(recipe, 2))))


def hpz_of(recipe, size):
    content = json.loads(DEEPSPEED_FILES.path("zero3_hpz").read_text())
    content["zero_optimization"]["zero_hpz_partition_size"] = size
    path = recipe.parent / f"hpz{size}.json"
    path.write_text(json.dumps(content))
    return path
