"""With dropout and several cells a forward: the same losses on any number of ranks, or one line that says why not."""

import pytest
from rich.console import Console

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.preflight.dropout import regrouped, split_forwards
from mtllm_ds.training.assemble import open_run, run_training
from tests.distributed.ranks import ranks
from tests.fixtures.runs import losses_of, make_run, settings_of

STEPS = 4
DROPOUT = {"model__lora__dropout": 0.3, "data__cells_per_forward": 2, "run__max_steps": STEPS}
LLM = {**DROPOUT, "model__reader": "llm"}
KINDS = {
    "stack": DROPOUT,
    "packed": {
        **DROPOUT, "data__samples_per_cell": "null", "data__encoder_tokens_per_cell": 160, "data__llm_tokens_per_cell": 160,
    },
    "masks": {**LLM, "objective__name": "masked_next_token", "objective__mask_token": "e"},
    "attention": {**LLM, "objective__name": "simcse"},
}  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("dropout"))


def train(recipe, resume, overrides):
    """On a rank of a pool."""
    return run_training(settings_of(recipe, **overrides), join_cluster(), resume)


def start(recipe, resume, overrides):
    """On a rank of a pool: what a run says at its start."""
    console = Console(record=True, width=500, quiet=False)
    open_run(settings_of(recipe, **overrides), join_cluster(), resume, console).close()
    return console.export_text()


def losses_on(world_size, recipe, name, resume=False, **overrides):
    overrides["run__output_dir"] = str(recipe.parent / name)
    assert ranks(world_size).run(train, recipe, resume, overrides) == [0] * world_size
    return losses_of(settings_of(recipe, **overrides))


@pytest.mark.parametrize("kind", list(KINDS))
def test_two_and_three_ranks_draw_as_one_does(recipe, kind):
    one = losses_on(1, recipe, f"{kind}1", **KINDS[kind])
    assert len(one) == STEPS
    assert losses_on(2, recipe, f"{kind}2", **KINDS[kind]) == pytest.approx(one, rel=1e-5)
    if kind == "stack":
        assert losses_on(3, recipe, f"{kind}3", **KINDS[kind]) == pytest.approx(one, rel=1e-5)
        assert losses_on(1, recipe, "without", **{**DROPOUT, "model__lora__dropout": 0}) != pytest.approx(one, rel=1e-3)


def test_masks_do_not_follow_the_forwards(recipe):
    settings = {**KINDS["masks"], "model__lora__dropout": 0}
    many = losses_on(1, recipe, "many_cells", **settings)
    assert losses_on(2, recipe, "one_cell", **{**settings, "data__cells_per_forward": 1}) == pytest.approx(
        many, rel=1e-5
    )


def test_resumed_on_other_ranks_the_losses_go_on_and_other_forwards_are_told(recipe):
    whole = losses_on(1, recipe, "whole", **DROPOUT)
    # Two of four steps: the decay of the learning rate needs all four, so the last checkpoint is taken away.
    halfway = {**DROPOUT, "run__save_every": 2}
    losses_on(2, recipe, "halfway", **halfway)
    checkpoints = recipe.parent / "halfway" / "checkpoints"
    (checkpoints / f"step_{STEPS:08d}").rename(recipe.parent / "last")
    (checkpoints / "best.json").unlink()

    def said(world_size, **changes):
        overrides = {**halfway, "run__output_dir": str(recipe.parent / "halfway"), **changes}
        return ranks(world_size).run(start, recipe, True, overrides)[0]

    assert "dropout falls" not in said(1)
    told = "warning: --resume: data.cells_per_forward=1, but the run had 2: from here on dropout falls differently"
    assert told in said(1, data__cells_per_forward=1)
    assert losses_on(1, recipe, "halfway", resume=True, **halfway) == pytest.approx(whole, rel=1e-5)


def test_more_ranks_than_whole_forwards_are_told(recipe):
    settings = settings_of(recipe, **{**DROPOUT, "data__cells_per_forward": 3})
    assert split_forwards(settings, 1) == split_forwards(settings, 2) == []
    [line] = split_forwards(settings, 3)
    assert line.startswith("data.cells_per_forward=3: on 3 ranks a forward has only 2 of the 6 cells")
    assert "set it to 2 for the same on up to 3" in line
    overrides = {**DROPOUT, "data__cells_per_forward": 3, "run__output_dir": str(recipe.parent / "three")}
    assert f"warning: {line}" in ranks(3).run(start, recipe, False, overrides)[0]
    for free in ({"model__lora__dropout": 0}, {"data__cells_per_forward": 2}, {"data__cells_per_forward": 1}):
        assert split_forwards(settings_of(recipe, **{**DROPOUT, "data__cells_per_forward": 3, **free}), 3) == []
    assert split_forwards(settings_of(recipe, **{**DROPOUT, "data__cells_per_forward": 99}), 1) == []
    simcse = {**KINDS["attention"], "model__lora__dropout": 0, "data__cells_per_forward": 3}
    assert len(split_forwards(settings_of(recipe, **simcse), 3)) == 1


def test_encoder_inputs_matter_where_the_encoder_has_dropout(recipe):
    packed = {**KINDS["packed"], "objective__name": "task_tuning"}
    for reader, expected in (("encoder", 1), ("stacked", 0)):
        before, now = (
            settings_of(recipe, **packed, model__reader=reader, data__encoder_buckets=count) for count in (2, 3)
        )
        assert len(regrouped(now, before)) == expected
