"""ZeRO's door on two real ranks: weights arrive partitioned, gathers give them whole, state goes out and in by name."""

import pytest
import torch

from mtllm_ds.cluster.agree import any_says, lowest_rank_where, sum_over_ranks, together
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.cluster.zero import MASTER, MOMENTS, TrainableState, full_numel, gathered, partitioned_loading
from mtllm_ds.errors import UserError
from mtllm_ds.models.build import build_reader
from mtllm_ds.preflight.plan import check_run
from mtllm_ds.teachers.frozen_self import FrozenSelf
from mtllm_ds.training.engine import Engine
from tests.distributed.ranks import RankError, ranks
from tests.fixtures.runs import make_run, settings_of


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("zero"))


def loaded_shares(recipe):
    """On a rank: (elements held, elements in all, a gathered weight) of the frozen models, right after loading."""
    cluster, settings = join_cluster(), settings_of(recipe)
    plan = check_run(settings, cluster.world_size)
    with partitioned_loading(plan.ds_config):
        stack = build_reader(settings, cluster.device)
    frozen = [p for p in stack.parameters() if not p.requires_grad]
    assert all(p.numel() == 0 for p in frozen), "a whole weight stayed on a rank"
    held = sum(p.ds_tensor.numel() for p in frozen)
    table = stack.llm.get_input_embeddings().weight
    with gathered([table]):
        whole = table.detach().clone()
    assert table.numel() == 0
    return held, sum(full_numel(p) for p in frozen), whole


def test_weights_arrive_partitioned(recipe):
    from transformers import AutoModel

    answers = ranks(2).run(loaded_shares, recipe)
    for held, total, whole in answers:
        assert total / 2 <= held <= total / 2 + 100  # padding of odd sizes
        truth = AutoModel.from_pretrained(recipe.parent / "llm").get_input_embeddings().weight
        assert torch.equal(whole, truth)


def state_out_and_in(recipe, stage):
    """On a rank: write numbers into every trainable's state, read them back."""
    cluster = join_cluster()
    settings = settings_of(recipe, training__deepspeed=f"ds_configs/{'cpu' if stage == 3 else 'zero2'}.json")
    plan = check_run(settings, cluster.world_size)
    from mtllm_ds.objectives.pooled_alignment import PooledAlignment

    with partitioned_loading(plan.ds_config):
        stack = build_reader(settings, cluster.device)
    engine = Engine(PooledAlignment(stack, FrozenSelf(stack), 1), settings, plan.ds_config)
    trainable = TrainableState(engine.deepspeed)
    assert trainable.num_updates() == 0
    trainable.begin(17)
    wanted = {}
    for number, (name, parameter) in enumerate(trainable.parameters.items()):
        shape = getattr(parameter, "ds_shape", parameter.shape)
        for offset, key in enumerate((MASTER, *MOMENTS)):
            generator = torch.Generator().manual_seed(10 * number + offset)
            wanted[name, key] = torch.rand(tuple(shape), generator=generator)
            trainable.set(name, key, wanted[name, key])
    same = all(torch.equal(trainable.get(name, key), value) for (name, key), value in wanted.items())
    updates = trainable.num_updates()
    engine.close()
    return same, updates


@pytest.mark.parametrize("stage", [3, 2])
def test_state_goes_out_and_in_by_name(recipe, stage):
    assert ranks(2).run(state_out_and_in, recipe, stage) == [(True, 17)] * 2


def agreements():
    """On a rank: each kind of agreement, where only rank 1 says something."""
    cluster = join_cluster()
    mine = cluster.rank == 1
    device = cluster.device
    return (
        any_says(mine, device),
        any_says(False, device),
        lowest_rank_where(mine, device),
        lowest_rank_where(False, device),
        sum_over_ranks(torch.tensor(float(cluster.rank + 1))).item(),
    )


def fail_on_last():
    cluster = join_cluster()

    def work():
        if cluster.rank == cluster.world_size - 1:
            raise UserError("only here")
        return 1

    return together(work, cluster.device)


def test_ranks_agree():
    assert ranks(2).run(agreements) == [(True, False, 1, None, 3.0)] * 2


def test_one_ranks_mistake_stops_all_and_is_told_once():
    with pytest.raises(RankError) as caught:
        ranks(2).run(fail_on_last)
    assert [error[0] for error in caught.value.errors] == ["PeerFailedError", "UserError"]
    assert caught.value.errors[1][1] == "only here"
