"""Whole runs on real ranks: the same losses on one, two and three, and after any stop; what they leave is right."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mtllm_ds.checkpoint.store import read_state
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.training.assemble import open_run, run_training
from tests.distributed.ranks import RankError, ranks
from tests.fixtures.runs import losses_of, make_run, rows_of, settings_of


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


def train(recipe, resume=False, **overrides):
    """On a rank of a pool."""
    return run_training(settings_of(recipe, **overrides), join_cluster(), resume)


def train_until(recipe, stop_at, overrides):
    """On a rank of a pool: a run that is asked to stop while step `stop_at` is under way."""
    from rich.console import Console

    settings = settings_of(recipe, **overrides)
    trainer = open_run(settings, join_cluster(), False, Console(quiet=True))
    take = trainer._take_step

    def take_and_ask(step, data):
        take(step, data)
        trainer.preemption.requested = trainer.preemption.requested or (step + 1 == stop_at and trainer.cluster.is_main)

    trainer._take_step = take_and_ask
    try:
        return trainer.run()
    finally:
        trainer.close()


def run_on(world_size, recipe, name, resume=False, **overrides):
    overrides["run__output_dir"] = str(recipe.parent / name)
    assert ranks(world_size).run(train_with, recipe, resume, overrides) == [0] * world_size
    return settings_of(recipe, **overrides)


def train_with(recipe, resume, overrides):
    return train(recipe, resume, **overrides)


@pytest.fixture(scope="module")
def uninterrupted(recipe):
    """The truth of this file: eight steps on one rank."""
    return losses_of(run_on(1, recipe, "whole"))


def assert_same_losses(found, truth):
    assert found.keys() == truth.keys()
    for step, loss in truth.items():
        assert found[step] == pytest.approx(loss, rel=1e-5), f"step {step}"


def test_the_run_learns_and_leaves_what_it_should(recipe, uninterrupted):
    assert list(uninterrupted) == list(range(1, 9))
    assert uninterrupted[8] < uninterrupted[1]
    run = recipe.parent / "whole"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = next(row for row in rows if row["step"] == 3)
    assert {"step", "loss", "learning_rate", "grad_norm", "tokens_per_second", "seconds", "fvu"} <= trained.keys()
    assert [row["step"] for row in rows if "eval_fvu" in row] == [4, 8]
    assert (run / "config.yaml").is_file()
    checkpoint = run / "checkpoints" / "step_00000008"
    tensors = load_file(checkpoint / "trainable.safetensors")
    assert all(tensor.numel() > 0 and tensor.dtype == torch.float32 for tensor in tensors.values())
    assert any("lora_A" in name for name in tensors)
    assert "student.connector.weight" in tensors


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("stage", [3, 2])
def test_any_number_of_ranks_gives_the_same_losses(recipe, uninterrupted, world_size, stage):
    extra = {} if stage == 3 else {"training__deepspeed": "ds_configs/zero2.json"}
    settings = run_on(world_size, recipe, f"ranks{world_size}zero{stage}", **extra)
    assert_same_losses(losses_of(settings), uninterrupted)
    one = [row for row in rows_of(settings_of(recipe, run__output_dir=recipe.parent / "whole")) if "eval_fvu" in row]
    many = [row for row in rows_of(settings) if "eval_fvu" in row]
    for a, b in zip(one, many, strict=True):
        assert b["eval_fvu"] == pytest.approx(a["eval_fvu"], rel=1e-4)


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (2, 3), (1, 2)])
def test_stopped_and_resumed_losses_go_on(recipe, uninterrupted, before, after):
    name = f"stop{before}to{after}"
    overrides = {"run__output_dir": str(recipe.parent / name)}
    assert ranks(before).run(train_until, recipe, 3, overrides) == [False] * before
    settings = run_on(after, recipe, name, resume=True, data__cells_per_forward=1)
    assert_same_losses(losses_of(settings), uninterrupted)


def test_zero2_resumes_too(recipe, uninterrupted):
    overrides = {"run__output_dir": str(recipe.parent / "stop_zero2"), "training__deepspeed": "ds_configs/zero2.json"}
    assert ranks(2).run(train_until, recipe, 5, overrides) == [False, False]
    settings = run_on(2, recipe, "stop_zero2", resume=True, training__deepspeed="ds_configs/zero2.json")
    assert_same_losses(losses_of(settings), uninterrupted)


def test_bf16_learns_and_resumes_bitwise(recipe):
    whole = losses_of(run_on(2, recipe, "bf16", training__precision="bf16"))
    assert whole[8] < whole[1]
    overrides = {"run__output_dir": str(recipe.parent / "bf16_stop"), "training__precision": "bf16"}
    assert ranks(2).run(train_until, recipe, 3, overrides) == [False, False]
    assert losses_of(run_on(2, recipe, "bf16_stop", resume=True, training__precision="bf16")) == whole


def test_dropout_and_recomputation_repeat_themselves(recipe):
    extra = {"model__lora__dropout": 0.2, "run__max_steps": 4}
    plain = losses_of(run_on(2, recipe, "dropout", **extra))
    again = losses_of(run_on(2, recipe, "recompute", training__activation_checkpointing="true", **extra))
    assert_same_losses(again, plain)
    without = losses_of(run_on(2, recipe, "no_dropout", run__max_steps=4))
    assert without[2] != plain[2]


def test_a_least_squares_start_begins_lower(recipe, uninterrupted):
    settings = run_on(2, recipe, "least_squares", model__connector__init="least_squares", run__max_steps=2)
    one = run_on(1, recipe, "least_squares_one", model__connector__init="least_squares", run__max_steps=2)
    assert losses_of(settings)[1] < uninterrupted[1]
    assert losses_of(one)[1] == pytest.approx(losses_of(settings)[1], rel=1e-5)


def test_an_unsound_step_stops_all_ranks(recipe):
    with pytest.raises(RankError) as caught:
        run_on(2, recipe, "unsound", optim__learning_rate=1e30, optim__warmup_share=0)
    kinds = [error[0] for error in caught.value.errors]
    assert sorted(kinds) == ["PeerFailedError", "UnsoundStepError"]
    assert "could not take it soundly" in next(e[1] for e in caught.value.errors if e[0] == "UnsoundStepError")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"run__seed": 5}, "run.seed=5"),
        ({"data__lanes": 12}, "data.lanes=12"),
        ({"model__lora__rank": 4}, "model.lora"),
    ],
)
def test_another_run_is_not_resumed(recipe, uninterrupted, overrides, message):
    with pytest.raises(RankError, match="--resume") as caught:
        run_on(1, recipe, "whole", resume=True, **overrides)
    assert message in str(caught.value)


def test_a_fresh_run_does_not_overwrite_an_older_one(recipe, uninterrupted):
    with pytest.raises(RankError, match="add --resume"):
        run_on(1, recipe, "whole")
    with pytest.raises(RankError, match="no checkpoint"):
        run_on(1, recipe, "never_started", resume=True)


def test_more_ranks_than_lanes_are_refused(recipe):
    with pytest.raises(RankError, match=r"data\.lanes=2"):
        run_on(3, recipe, "lanes", data__lanes=2)


def test_the_best_checkpoint_is_kept(recipe):
    settings = run_on(1, recipe, "best", run__validate_every=1, run__save_every=1, run__keep_checkpoints=1)
    root = Path(settings.run.output_dir) / "checkpoints"
    values = {row["step"]: row["eval_loss"] for row in rows_of(settings) if "eval_loss" in row}
    best = json.loads((root / "best.json").read_text())
    assert best["value"] == min(values.values())
    assert values[best["step"]] == best["value"]
    kept = sorted(int(path.name[5:]) for path in root.glob("step_*"))
    assert kept == sorted({best["step"], 8})


def test_newest_figures_survive_a_resume_and_half_done_folders_do_not(recipe):
    settings = run_on(1, recipe, "figures", run__max_steps=2, run__save_every=1, run__keep_checkpoints=9)
    root = Path(settings.run.output_dir) / "checkpoints"
    (root / ".step_00000003.1.tmp").mkdir()
    before = read_state(root / "step_00000002").metrics
    more = {"run__max_steps": 4, "run__save_every": 1, "run__validate_every": 50, "run__keep_checkpoints": 9}
    run_on(1, recipe, "figures", resume=True, **more)
    assert read_state(root / "step_00000003").metrics == before != {}
    assert not list(root.glob(".*"))
    with pytest.raises(RankError, match="the run has made 4 steps"):
        run_on(1, recipe, "figures", resume=True, run__max_steps=3)
