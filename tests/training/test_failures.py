"""A run that meets trouble goes on where the settings let it, says so, and stays what it would have been."""

import json
import resource
import shutil
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from mtllm_ds.checkpoint.store import (
    CheckpointTensors,
    checkpoint_folders,
    load_kept,
    load_trainable,
    owes_validation,
    read_state,
    write_checkpoint,
)
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.config.seeds import seed_runs
from mtllm_ds.errors import UserError
from mtllm_ds.preflight.resume import find_checkpoint, runs_to_make
from mtllm_ds.training import assemble, saving
from mtllm_ds.training.assemble import open_run, run_training
from tests.distributed.ranks import RankError, ranks
from tests.fixtures.runs import losses_of, make_run, rows_of, settings_of
from tests.training.test_guards import bad_gradient, bad_loss, run_with


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("failures"))


def overrides_of(recipe, name, **more):
    folder = str(recipe.parent / name)
    return {"run__output_dir": folder, "run__save_every": 1, "run__keep_checkpoints": 99, **more}


def train(recipe, resume, overrides):
    """On a rank of a pool."""
    return run_training(settings_of(recipe, **overrides), join_cluster(), resume)


def root_of(recipe, name):
    return recipe.parent / name / "checkpoints"


def tensors_of(folder):
    return {**load_file(folder / "trainable.safetensors"), **load_file(folder / "moments.safetensors")}


@pytest.mark.parametrize("change", [bad_loss, bad_gradient])
@pytest.mark.parametrize("file", ["zero2", "zero3"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(recipe, file, change):
    name = f"skip-{change.__name__}-{file}"
    settings = {"run__max_steps": 3, "training__deepspeed": file, "failures__skip_unsound_steps": 1}
    assert ranks(2).run(run_with, recipe, overrides_of(recipe, name, **settings), 1, change, True) == [True, True]
    first, second, third = checkpoint_folders(root_of(recipe, name)).values()
    before, after = tensors_of(first), tensors_of(second)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [read_state(folder).num_updates for folder in (first, second, third)] == [1, 1, 2]
    assert [read_state(folder).history["skipped_steps"] for folder in (first, second, third)] == [[], [2], [2]]
    rows = {
        row["step"]: row for row in rows_of(settings_of(recipe, run__output_dir=recipe.parent / name)) if "loss" in row
    }
    assert rows[3]["loss"] < rows[1]["loss"]
    assert rows[2]["skipped_steps"] == rows[3]["skipped_steps"] == 1


def test_no_more_steps_are_left_out_than_may_be(recipe):
    before = overrides_of(recipe, "too many", run__max_steps=3, failures__skip_unsound_steps=1)
    assert ranks(2).run(run_with, recipe, before, 0, bad_loss, True) == [True, True]
    more = {**before, "run__max_steps": 6}

    with pytest.raises(RankError, match="step 5: rank 0 could not take it soundly"):
        ranks(2).run(go_on_with_bad_step, recipe, more, 4)
    assert max(checkpoint_folders(root_of(recipe, "too many"))) == 4


def go_on_with_bad_step(recipe, overrides, bad_step):
    """On a rank: resume a run in which rank 0's loss of a step (from 0) is not finite."""
    trainer = open_run(settings_of(recipe, **overrides), join_cluster(), True, Console(quiet=True))
    forward, take = trainer.objective.forward, trainer._take_step
    step = [-1]
    trainer._take_step = lambda number, data: (step.__setitem__(0, number), take(number, data))[1]

    def changed(batch):
        output = forward(batch)
        return (
            replace(output, loss_sum=output.loss_sum * float("nan"))
            if step[0] == bad_step and not trainer.cluster.rank
            else output
        )

    trainer.objective.forward = changed
    try:
        return trainer.run()
    finally:
        trainer.close()


SPIKES = {
    "run__max_steps": 16, "run__validate_every": 50, "failures__on_loss_spike": "roll_back", "failures__spike_window": 10,
}  # fmt: skip


class PulledPlugError(RuntimeError):
    pass


def run_with_spike(recipe, overrides, times, killed=False):
    """On a rank: a run whose loss is a thousandfold when the data of step 14 come, `times` times in a row; `killed` after that."""
    trainer = open_run(settings_of(recipe, **overrides), join_cluster(), False, Console(quiet=True))
    take = trainer._take_step
    left = [times]

    def changed(step, data):
        if step == 13 and not left[0] and killed:
            raise PulledPlugError
        loss = take(step, data)
        if step == 13 and left[0]:
            left[0] -= 1
            loss *= 1000
        return loss

    trainer._take_step = changed
    try:
        return trainer.run()
    finally:
        trainer.close()


def test_a_spike_takes_the_weights_of_before_and_the_data_behind(recipe):
    assert ranks(2).run(run_with_spike, recipe, overrides_of(recipe, "spike", **SPIKES), 1) == [True, True]
    found = settings_of(recipe, run__output_dir=recipe.parent / "spike")
    events = [row for row in rows_of(found) if "loss_spike" in row or "rolled_back_to" in row]
    assert [row["step"] for row in events] == [14, 14]
    assert events[1]["rolled_back_to"] == 13
    steps = [row["step"] for row in rows_of(found) if "loss" in row]
    assert steps == sorted(set(steps))
    # The truth: the checkpoint of step 13, with the cursor of step 14, in a run without a spike.
    truth = overrides_of(recipe, "no spike", **SPIKES)
    assert ranks(2).run(train, recipe, False, {**truth, "run__max_steps": 14, "optim__warmup_share": 0.2}) == [0, 0]
    whole = checkpoint_folders(root_of(recipe, "spike"))[13]
    state = replace(read_state(whole), cursor=read_state(checkpoint_folders(root_of(recipe, "no spike"))[14]).cursor)
    shutil.rmtree(root_of(recipe, "no spike"))
    moments = load_file(whole / "moments.safetensors")
    write_checkpoint(
        root_of(recipe, "no spike"), state, CheckpointTensors(load_trainable(whole), moments), load_kept(whole)
    )
    assert ranks(2).run(train, recipe, True, truth) == [0, 0]
    losses = losses_of(settings_of(recipe, run__output_dir=recipe.parent / "no spike"))
    for step in (14, 15, 16):
        assert losses_of(found)[step] == pytest.approx(losses[step], rel=1e-6)
    # A run that is ended right after it came back does not read the same data again.
    killed = overrides_of(recipe, "spike and out", **SPIKES)
    with pytest.raises(RankError, match="PulledPlugError"):
        ranks(2).run(run_with_spike, recipe, killed, 1, True)
    assert ranks(2).run(train, recipe, True, killed) == [0, 0]
    rows = rows_of(settings_of(recipe, **killed))
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 17))
    assert [row["step"] for row in rows if "rolled_back_to" in row] == [14]
    assert losses_of(settings_of(recipe, **killed)) == pytest.approx(losses_of(found), rel=1e-6)
    assert read_state(checkpoint_folders(root_of(recipe, "spike and out"))[16]).history["num_roll_backs"] == 1


def test_rolls_back_are_bounded_and_a_spike_may_stop(recipe):
    settings = {**SPIKES, "failures__max_roll_backs": 2}
    with pytest.raises(RankError, match="is a spike after 2 rolls back"):
        ranks(2).run(run_with_spike, recipe, overrides_of(recipe, "often", **settings), 3)
    with pytest.raises(RankError, match=r"step 14: the loss of .* is a spike, nothing was saved"):
        ranks(2).run(
            run_with_spike, recipe, overrides_of(recipe, "stop", **{**SPIKES, "failures__on_loss_spike": "stop"}), 1
        )
    assert max(checkpoint_folders(root_of(recipe, "stop"))) == 13
    with pytest.raises(RankError, match=r"UnsoundStepError: step 14: .* is a spike, and there is no checkpoint yet"):
        ranks(2).run(run_with_spike, recipe, overrides_of(recipe, "early", **{**SPIKES, "run__save_every": 50}), 1)


def run_on_full_disk(recipe, overrides, bad_steps):
    """On a rank: a run that can write no file of more than 1000 bytes while it saves some steps; what it told."""
    console = Console(quiet=True)
    trainer = open_run(settings_of(recipe, **overrides), join_cluster(), False, console)
    told, save = [], trainer.saver.save
    trainer.saver.warn = told.append
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(state, *args, **options):
        trainer.saver.finish()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000 if state.step in bad_steps else limits[0], limits[1]))
        save(state, *args, **options)

    trainer.saver.save = limited
    try:
        return trainer.run(), told
    finally:
        trainer.close()
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("beside", [False, True])
def test_a_disk_that_takes_nothing_ends_no_training(recipe, beside):
    name = f"full-{beside}"
    settings = overrides_of(recipe, name, run__max_steps=4, run__save_beside=str(beside).lower())
    (finished, told), (_, quiet) = ranks(2).run(run_on_full_disk, recipe, settings, [2, 3])
    assert finished
    assert not quiet
    assert len(told) == 2
    assert "step_00000002: cannot be written" in told[0]
    assert "NOT SAVED: training goes on" in told[0]
    assert list(checkpoint_folders(root_of(recipe, name))) == [1, 4]
    assert not list(root_of(recipe, name).glob(".*"))
    assert ranks(2).run(train, recipe, True, {**settings, "run__max_steps": 5}) == [0, 0]


def run_with_broken_writer(recipe, overrides):
    """On a rank: a run in which writing step 2 fails as no disk does, and tidying after step 3."""
    trainer = open_run(settings_of(recipe, **overrides), join_cluster(), False, Console(quiet=True))
    told, write, drop = [], saving.write_checkpoint, saving.drop_old
    trainer.saver.warn = told.append

    def broken(root, state, *rest):
        if state.step == 2:
            raise RuntimeError("no such tensor")
        write(root, state, *rest)

    def drop_none(root, *rest):
        if 3 in checkpoint_folders(root):
            raise UserError("best.json: damaged")
        drop(root, *rest)

    saving.write_checkpoint, saving.drop_old = broken, drop_none
    try:
        return trainer.run(), told
    finally:
        trainer.close()
        saving.write_checkpoint, saving.drop_old = write, drop


@pytest.mark.parametrize("beside", [False, True])
def test_whatever_fails_in_writing_leaves_no_rank_waiting(recipe, beside):
    name = f"broken-{beside}"
    settings = overrides_of(recipe, name, run__max_steps=4, run__save_beside=str(beside).lower())
    (finished, told), (others_finished, _) = ranks(2).run(run_with_broken_writer, recipe, settings)
    assert finished
    assert others_finished
    assert "RuntimeError: no such tensor" in told[0]
    assert "best.json: damaged" in told[1]
    assert list(checkpoint_folders(root_of(recipe, name))) == [1, 3, 4]


def test_what_cannot_be_saved_at_the_end_is_an_error(recipe):
    settings = overrides_of(recipe, "last", run__max_steps=2)
    with pytest.raises(RankError, match=r"step_00000002: cannot be written .*; make room, then go on with --resume"):
        ranks(2).run(run_on_full_disk, recipe, settings, [2])
    assert list(checkpoint_folders(root_of(recipe, "last"))) == [1]


def test_checkpoints_written_beside_the_training_are_the_same(recipe):
    for name, beside in (("at once", "false"), ("beside", "true")):
        settings = overrides_of(recipe, name, run__max_steps=4, run__keep_every=2, run__save_beside=beside)
        settings["run__keep_checkpoints"] = 1
        assert ranks(2).run(train, recipe, False, settings) == [0, 0]
    one, other = (checkpoint_folders(root_of(recipe, name)) for name in ("at once", "beside"))
    assert list(one) == list(other) == [2, 4]
    for step in one:
        assert (
            json.loads((one[step] / "state.json").read_text())["files"]
            == json.loads((other[step] / "state.json").read_text())["files"]
        )
    assert (root_of(recipe, "beside") / "best.json").read_text() == (
        root_of(recipe, "at once") / "best.json"
    ).read_text()


def stop_in_validation(recipe, overrides, culprit, resume=False):
    """On a rank: a run in whose validation one rank is asked to stop."""
    trainer = open_run(settings_of(recipe, **overrides), join_cluster(), resume, Console(quiet=True))
    assemble.EVAL_BATCH_SIZE = 4
    forward = trainer.objective.forward

    def asked(batch):
        if not trainer.objective.training and trainer.cluster.rank == culprit:
            trainer.preemption.requested = True
        return forward(batch)

    trainer.objective.forward = asked
    try:
        return trainer.run()
    finally:
        assemble.EVAL_BATCH_SIZE = 16
        trainer.close()


@pytest.mark.parametrize("max_steps", [4, 2])
def test_a_stop_in_a_validation_cuts_it_short_and_it_is_made_up_for(recipe, max_steps):
    settings = {"run__max_steps": max_steps, "run__validate_every": 2, "run__save_every": 50}
    truth, cut = (overrides_of(recipe, f"{name}-{max_steps}", **settings) for name in ("whole", "cut"))
    assert ranks(2).run(train, recipe, False, truth) == [0, 0]
    assert ranks(2).run(stop_in_validation, recipe, cut, 1) == [False, False]
    (saved,) = checkpoint_folders(root_of(recipe, f"cut-{max_steps}"))
    assert saved == 2
    assert ranks(2).run(stop_in_validation, recipe, cut, 0, True) == [False, False]  # asked again, in the same one
    folder = checkpoint_folders(root_of(recipe, f"cut-{max_steps}"))[2]
    assert owes_validation(folder)
    seeds = settings_of(recipe, **{**cut, "run__seeds": "[5]", "run__output_dir": recipe.parent / f"seeds-{max_steps}"})
    (seed,) = seed_runs(seeds)
    shutil.copytree(recipe.parent / f"cut-{max_steps}", seed.run.output_dir)
    assert len(runs_to_make(seeds, True)) == 1
    assert ranks(2).run(train, recipe, True, cut) == [0, 0]
    assert not owes_validation(folder)
    whole = checkpoint_folders(root_of(recipe, f"whole-{max_steps}"))
    if 2 in whole:
        assert read_state(folder).metrics == pytest.approx(read_state(whole[2]).metrics, rel=1e-6)
    found, expected = (
        [
            {key: row[key] for key in ("step", "loss", "eval_loss") if key in row}
            for row in rows_of(settings_of(recipe, **one))
        ]
        for one in (cut, truth)
    )
    assert len(found) == len(expected)
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-6)
    whole, again = (
        json.loads((root_of(recipe, f"{name}-{max_steps}") / "best.json").read_text()) for name in ("whole", "cut")
    )
    assert whole["step"] == again["step"]


def damage(folder):
    path = folder / "moments.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_auto_passes_over_what_is_damaged_and_ends_as_it_would_have(recipe):
    settings = overrides_of(recipe, "auto", run__max_steps=5)
    assert ranks(2).run(train, recipe, "auto", settings) == [0, 0]
    truth = losses_of(settings_of(recipe, **settings))
    root = root_of(recipe, "auto")
    for step in (3, 4, 5):
        damage(checkpoint_folders(root)[step])
    newest, damaged, lines = find_checkpoint(root, "auto")
    assert (newest.step, list(damaged)) == (2, [5, 4, 3])
    assert all("moments.safetensors is damaged" in line and "put aside" in line for line in lines)
    assert ranks(2).run(train, recipe, "auto", settings) == [0, 0]
    assert losses_of(settings_of(recipe, **settings)) == pytest.approx(truth, rel=1e-6)
    assert sorted(path.name for path in root.glob("damaged_*")) == [f"damaged_{step:08d}" for step in (3, 4, 5)]
    assert list(checkpoint_folders(root)) == [1, 2, 3, 4, 5]


def test_auto_never_begins_anew_where_there_was_something(recipe, tmp_path):
    newest, _, (line,) = find_checkpoint(tmp_path, "auto")
    assert newest is None
    assert line.endswith("the run starts from its beginning")
    folder = tmp_path / "step_00000004"
    folder.mkdir()
    (folder / "state.json").write_text('{"format": 99}')
    with pytest.raises(
        UserError, match=r"step_00000004: format 99, this version reads"
    ):  # sound, and another version's
        find_checkpoint(tmp_path, "auto")
    shutil.rmtree(folder)
    folder = tmp_path / "step_00000003"
    folder.mkdir()
    (folder / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"all 1 checkpoints in .* are damaged; bring one back"):
        find_checkpoint(tmp_path, "auto")
