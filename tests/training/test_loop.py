"""What the loop promises an objective that looks at its step before the first forward."""

from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.data.stream.collate import Collator
from mtllm_ds.objectives.base import ObjectiveOutput
from mtllm_ds.training.assemble import open_run
from mtllm_ds.training.loop import Trainer
from tests.distributed.ranks import ranks
from tests.fixtures.runs import make_run, rows_of, settings_of


class Noting:
    """An objective that works out on the host what its forward must know."""

    def count(self, batch):
        assert batch.llm_ids.device.type == "cpu"
        batch.host.noted["what"] = "worked out"
        return 1

    def __call__(self, batch):
        return ObjectiveOutput(torch.rand(()), {}, torch.tensor([float(batch.host.noted["what"] == "worked out")]))


def test_a_preview_finds_what_counting_noted_and_draws_as_the_forward_will():
    """`count` comes before every forward, the preview's too: a step's own counts are taken only after `prepare`."""
    objective = Noting()
    trainer = object.__new__(Trainer)
    trainer.objective = objective
    trainer.settings = SimpleNamespace(run=SimpleNamespace(seed=3))
    trainer.stream = SimpleNamespace(first_lanes=[0, 4])
    trainer.cluster = SimpleNamespace(device=torch.device("cpu"))
    trainer.engine = SimpleNamespace(micro_batches=2, forward=objective)
    batch = Collator(pad_ids={"llm": 0})([])
    preview = trainer._preview(5, 1, batch)
    assert preview.vectors.item() == 1
    assert trainer._forward(5, 1, batch).loss_sum == preview.loss_sum
    assert trainer._forward(5, 0, batch).loss_sum != preview.loss_sum


def test_all_parts_are_closed_whichever_fails_and_signals_are_given_back_last():
    closed = []

    def part(name, fails=False):
        def close():
            closed.append(name)
            if fails:
                raise RuntimeError(name)

        return SimpleNamespace(close=close, finish=close)

    trainer = object.__new__(Trainer)
    trainer.saver, trainer.sinks = part("saver"), [part("sink", fails=True)]
    trainer.engine, trainer.watch, trainer.lock = part("engine", fails=True), part("watch"), part("lock")
    trainer.profiler = part("profiler")
    trainer.preemption = part("preemption")
    with pytest.raises(RuntimeError, match="engine"):
        trainer.close()
    assert closed == ["saver", "sink", "profiler", "engine", "watch", "lock", "preemption"]


def stop_in_the_first_validation(recipe):
    """On each rank: lines told, and whether the run finished, when one rank is asked to stop before the first step."""
    cluster, lines = join_cluster(), []
    trainer = open_run(settings_of(recipe, run__validate_at_start=True), cluster, False, Console(quiet=True))
    trainer.warn = lines.append
    trainer.preemption.requested = cluster.rank == 1
    try:
        return lines, trainer.run()
    finally:
        trainer.close()


def test_a_stop_in_the_validation_before_the_first_step_is_told(tmp_path):
    line = "run.validate_at_start=true: asked to stop on the way; the run goes on without the row of step 0"
    recipe = make_run(tmp_path)
    assert ranks(2).run(stop_in_the_first_validation, recipe) == [([line], False)] * 2
    assert all("eval" not in key for row in rows_of(settings_of(recipe)) if row["step"] == 0 for key in row)
