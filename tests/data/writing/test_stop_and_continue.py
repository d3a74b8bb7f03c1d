"""A real DeepSpeed run, stopped at an arbitrary step and resumed by other ranks, sees the same next 50 batches."""

import shutil
from itertools import islice

import pytest

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.data.stream.stream import TrainStream
from mtllm_ds.training.assemble import open_run
from tests.distributed.ranks import ranks
from tests.fixtures.runs import make_run, settings_of

STOP, STEPS = 7, 50


def contents(batches):
    """Valid rows, each its sample and the ids of both sides, in an order that no cluster changes."""
    return sorted(
        (
            int(batch.sample_ids[i]),
            batch.encoder_ids[i][batch.encoder_mask[i].bool()].tolist(),
            batch.llm_ids[i][batch.llm_mask[i].bool()].tolist(),
        )
        for batch in batches
        for i in range(len(batch))
        if batch.valid[i]
    )


def train_and_record(recipe, overrides, resume, stop_at):
    """On a rank of a pool: train, and note what this rank's batches held at each step."""
    from rich.console import Console

    trainer = open_run(settings_of(recipe, **overrides), join_cluster(), resume, Console(quiet=True))
    take, seen = trainer._take_step, {}

    def take_and_note(step, data):
        seen[step] = contents(data.micro_batches)
        take(step, data)
        if step + 1 == stop_at and trainer.cluster.is_main:
            trainer.preemption.requested = True

    trainer._take_step = take_and_note
    try:
        trainer.run()
    finally:
        trainer.close()
    return seen


def together(seen_by_rank):
    """Step -> rows of all ranks."""
    steps = seen_by_rank[0].keys()
    assert all(seen.keys() == steps for seen in seen_by_rank)
    return {step: sorted(row for seen in seen_by_rank for row in seen[step]) for step in steps}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Recipe, overrides, and the true batches of every step; two ranks have trained up to `STOP`."""
    recipe = make_run(tmp_path_factory.mktemp("run"))
    steps = STOP + STEPS
    overrides = {
        "run__max_steps": steps, "run__log_every": steps, "run__validate_every": steps, "run__save_every": steps,
        "data__validation": "null",
    }  # fmt: skip
    settings = settings_of(recipe, **overrides)
    stream = TrainStream(settings.data.train, settings.data, seed=settings.run.seed)
    truth = {step.step: contents(step.micro_batches) for step in islice(stream, steps)}
    before = together(ranks(2).run(train_and_record, recipe, overrides, False, STOP))
    assert before == {step: truth[step] for step in range(STOP)}
    return recipe, overrides, truth


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 3])
def test_the_next_fifty_batches_are_the_same(stopped, tmp_path, world_size):
    recipe, overrides, truth = stopped
    shutil.copytree(settings_of(recipe, **overrides).run.output_dir, tmp_path / "run")
    overrides = overrides | {"run__output_dir": str(tmp_path / "run")}
    after = together(ranks(world_size).run(train_and_record, recipe, overrides, True, None))
    assert after == {step: truth[step] for step in range(STOP, STOP + STEPS)}
