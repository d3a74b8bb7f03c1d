"""DeepSpeed 0.19.8's own ways to fewer calls, tried on two CPU ranks: what the table in docs/clusters.md says of them."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.console import Console

from mtllm_ds.cluster.collectives import COUNTS
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.errors import UserError
from mtllm_ds.preflight.plan import check_run
from mtllm_ds.training.assemble import open_run
from tests.distributed.ranks import PARTITIONED, RankError, ranks
from tests.fixtures.runs import losses_of, make_run, settings_of

STEPS = 4
ZERO = json.loads(Path(PARTITIONED).read_text(encoding="utf-8"))
LEAVES = {"leaf_module": {"classes": ["transformers.models.llama.modeling_llama.LlamaDecoderLayer"]}}
GRANULARITY = {"stage3_module_granularity_threshold": 200}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("options"))


def trained(recipe, overrides, coalesces):
    """On a rank: of the last step (calls, bytes) of gathers and of sums of gradients. With `coalesces` gradients are summed over
    ranks once in a step, and not once in a forward."""
    trainer = open_run(settings_of(recipe, **overrides), join_cluster(), False, Console(quiet=True))
    if coalesces:
        coalesce(trainer.engine)
    take, counted = trainer._take_step, []

    def step(*given):
        before = COUNTS.copy()
        taken = take(*given)
        counted.append(COUNTS.since(before))
        return taken

    trainer._take_step = step
    try:
        trainer.run()
    finally:
        trainer.close()
    last = counted[-1]
    return [(last.calls[kind], last.payload_bytes[kind]) for kind in ("all_gather", "reduce_scatter")]


def coalesce(engine):
    """Let an engine reduce gradients as `coalesce_grad_reduction` does."""
    own, forward, update = engine.deepspeed, engine.forward, engine.step
    window, num_done = ExitStack(), [0]

    def forward_within(batch):
        if own.module.training and not num_done[0]:
            window.enter_context(own.coalesce_grad_reduction())
        return forward(batch)

    def step():  # DeepSpeed's own may not be called within
        num_done[0] += 1
        if num_done[0] == engine.micro_batches:
            window.close()
            own.set_gradient_accumulation_boundary(True)
            update()
            num_done[0] = 0

    engine.forward, engine.step = forward_within, step


def run_with(recipe, name, zero=None, coalesces=False, **overrides):
    """Losses of a run, and what a step gathers and sums up."""
    file = recipe.parent / f"{name}.json"
    file.write_text(json.dumps(ZERO | {"zero_optimization": ZERO["zero_optimization"] | (zero or {})}))
    overrides = {
        "run__output_dir": str(recipe.parent / name), "run__max_steps": STEPS, "run__validate_every": STEPS,
        "training__deepspeed": str(file), "training__whole_frozen_gib": 0, "model__paired_sweep": "false",
        **overrides,
    }  # fmt: skip
    one, other = ranks(2).run(trained, recipe, overrides, coalesces)
    assert one == other
    return losses_of(settings_of(recipe, **overrides)), *one


@pytest.fixture(scope="module")
def plain(recipe):
    return run_with(recipe, "plain")


def test_a_step_as_it_is(plain):
    assert plain[1:] == ((262, 455_104), (2, 14_784))


@pytest.mark.parametrize("zero", [LEAVES, GRANULARITY], ids=["leaf_module", "granularity"])
def test_leaves_by_class_and_by_size_take_a_tenth_of_the_calls(recipe, plain, zero):
    losses, gathers, sums = run_with(recipe, next(iter(zero)), zero)
    assert (gathers, sums) == ((26, 460_736), plain[2])
    assert losses == pytest.approx(plain[0], rel=1e-6)


def test_leaves_by_class_fail_where_the_first_layer_reads_frozen_embeddings(recipe):
    """`cluster.leaves` makes its input want a gradient."""
    alone = {"model__reader": "llm", "objective__name": "masked_next_token", "objective__mask_token": "e"}
    with pytest.raises(RankError, match=r"size of tensor a \(0\)"):
        run_with(recipe, "alone", LEAVES, **alone, model__paired_sweep="auto")


def test_gradients_that_are_summed_once_in_a_step(recipe, plain):
    losses, gathers, sums = run_with(recipe, "coalesced", coalesces=True)
    assert (gathers, sums) == (plain[1], (1, 7_392))
    assert losses == pytest.approx(plain[0], rel=1e-6)


def test_deepcompile_is_for_cuda_alone_and_refused(recipe):
    from deepspeed.compile.util import is_deepcompile_supported

    assert not is_deepcompile_supported()
    file = recipe.parent / "deepcompile.json"
    file.write_text(json.dumps(ZERO | {"compile": {"deepcompile": True}}))
    with pytest.raises(UserError, match="unknown key 'compile'"):
        check_run(settings_of(recipe, training__deepspeed=file), 2)
