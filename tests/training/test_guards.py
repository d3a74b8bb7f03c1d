"""What is not finite stops all ranks at once, names the rank where it began, and is never saved."""

import math
from pathlib import Path

import pytest
import torch
from rich.console import Console

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.cluster.zero import flat_masters
from mtllm_ds.config.load import load_settings
from mtllm_ds.errors import UserError
from mtllm_ds.objectives.base import ObjectiveOutput
from mtllm_ds.training.assemble import open_run
from mtllm_ds.training.guards import watched_gradients
from tests.distributed.ranks import PARTITIONED, RankError, ranks
from tests.fixtures.runs import make_run, settings_of


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("guards"))


def bad_loss(output, step):
    return ObjectiveOutput(output.loss_sum * (math.nan if step == 1 else 1.0), output.sums)


def bad_gradient(output, step):
    """The loss as it is, with the gradient of a square root at 0, times 0."""
    extra = (output.loss_sum * 0.0).abs().sqrt() * 0.0 if step == 1 else 0.0
    return ObjectiveOutput(output.loss_sum + extra, output.sums)


def bad_validation(output, step):
    return ObjectiveOutput(output.loss_sum, {**output.sums, "loss": output.sums["loss"] * math.nan})


def run_with(recipe, overrides, culprit, change, in_training):
    """On a rank: a run in which rank `culprit` changes what its objective gives."""
    settings = settings_of(recipe, **overrides)
    trainer = open_run(settings, join_cluster(), False, Console(quiet=True))
    objective, forward, step = trainer.objective, trainer.objective.forward, [-1]
    take = trainer._take_step

    def counted(number, data):
        step[0] = number
        take(number, data)

    def changed(batch):
        output = forward(batch)
        here = trainer.cluster.rank == culprit and objective.training == in_training
        return change(output, step[0]) if here else output

    objective.forward, trainer._take_step = changed, counted
    try:
        return trainer.run()
    finally:
        trainer.close()


def overrides_of(recipe, name, **more):
    folder = str(recipe.parent / name)
    return {"run__output_dir": folder, "run__max_steps": 4, "run__validate_every": 2, "run__save_every": 1, **more}


def told(recipe, name, caught):
    """The line that a run of two ranks ended with, told by one rank, and the steps that it saved."""
    kinds = sorted(error[0] for error in caught.value.errors)
    assert kinds == ["PeerFailedError", "UnsoundStepError"]
    (line,) = [error[1] for error in caught.value.errors if error[0] == "UnsoundStepError"]
    assert len(line.splitlines()) == 1
    return line, sorted(path.name for path in (recipe.parent / name / "checkpoints").glob("step_*"))


def stopped(recipe, name, culprit, change, in_training=True, **more):
    with pytest.raises(RankError) as caught:
        ranks(2).run(run_with, recipe, overrides_of(recipe, name, **more), culprit, change, in_training)
    return told(recipe, name, caught)


@pytest.mark.parametrize("file", ["zero2", "zero3", PARTITIONED], ids=["zero2", "zero3", "partitioned"])
@pytest.mark.parametrize("change", [bad_loss, bad_gradient])
@pytest.mark.parametrize("culprit", [0, 1])
def test_the_rank_where_it_began_is_named(recipe, file, change, culprit):
    name = f"{change.__name__}-{culprit}-{Path(file).stem}"
    line, saved = stopped(recipe, name, culprit, change, training__deepspeed=file)
    assert f"step 2: rank {culprit} could not take it soundly" in line
    assert saved == ["step_00000001"]


def run_to_infinity(recipe, overrides, culprit):
    """On a rank: a run in which the update of step 2 leaves an infinite weight on rank `culprit`."""
    trainer = open_run(settings_of(recipe, **overrides), join_cluster(), False, Console(quiet=True))
    apply, updates = trainer.engine.step, [0]

    def poisoned():
        apply()
        updates[0] += 1
        if trainer.cluster.rank == culprit and updates[0] == 2 * trainer.engine.micro_batches:
            with torch.no_grad():
                flat_masters(trainer.engine.deepspeed)[0][0] = math.inf

    trainer.engine.step = poisoned
    try:
        return trainer.run()
    finally:
        trainer.close()


@pytest.mark.parametrize("file", ["zero2", "zero3"])
def test_weights_that_an_update_made_infinite_are_not_saved(recipe, file):
    with pytest.raises(RankError) as caught:
        ranks(2).run(run_to_infinity, recipe, overrides_of(recipe, f"weights-{file}", training__deepspeed=file), 1)
    line, saved = told(recipe, f"weights-{file}", caught)
    assert "step 2: rank 1" in line
    assert "update applied and left a largest weight of inf" in line
    assert saved == ["step_00000001"]


def test_a_validation_loss_that_is_no_number_stops_the_run(recipe):
    line, saved = stopped(recipe, "validation", 1, bad_validation, in_training=False)
    assert "step 2: the validation loss is nan" in line
    assert saved == ["step_00000001"]


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
@pytest.mark.parametrize("key", ["optim.learning_rate", "optim.weight_decay", "model.connector.init_ridge"])
def test_no_setting_is_infinite(recipe, key, value):
    with pytest.raises(UserError, match=key):
        load_settings(recipe, [f"{key}={value}"])


def test_watched_gradients_see_only_their_own():
    weight = torch.nn.Parameter(torch.ones(2))
    with watched_gradients([weight], torch.device("cpu")) as seen:
        weight.sum().backward()
        assert not seen
        (weight * torch.tensor([math.inf, 1.0])).sum().backward()
        assert seen
    assert not weight._backward_hooks
