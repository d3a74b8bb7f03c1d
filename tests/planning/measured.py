"""What a run on real ranks asks of its collectives and keeps in memory: the truth that plans are held against."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.cluster.zero import flat_masters
from mtllm_ds.training.assemble import open_run
from tests.distributed.ranks import ranks
from tests.fixtures.runs import settings_of

COLLECTIVES = {
    "all_gather_into_tensor": "all_gather",
    "reduce_scatter_tensor": "reduce_scatter",
    "all_reduce": "all_reduce",
}
"""Methods of DeepSpeed's backend, and what a plan calls them"""


@dataclass(frozen=True)
class Measured:
    """Of one rank, in one step that neither validates nor saves."""

    payload_bytes: dict[str, int]
    """By collective, of DeepSpeed's own: of a gather what comes out, of others what goes in"""
    calls: dict[str, int]
    master_bytes: int
    moment_bytes: int
    num_trained: int


def measured(recipe: Path, overrides: dict[str, Any]) -> Measured:
    """On a rank: train to the last step but one, and count in it."""
    from deepspeed.comm import comm

    trainer = open_run(settings_of(recipe, **overrides), join_cluster(), False, Console(quiet=True))
    payload: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    take_step, counted_step = trainer._take_step, trainer.settings.run.max_steps - 1
    originals = {name: getattr(comm.cdb, name) for name in COLLECTIVES}

    def counting(name):
        def call(*args, **options):
            tensors = [one for one in (*args, *options.values()) if isinstance(one, torch.Tensor)]
            payload[COLLECTIVES[name]] += max(one.numel() * one.itemsize for one in tensors)
            calls[COLLECTIVES[name]] += 1
            return originals[name](*args, **options)

        return call

    def step(number, data):
        if number == counted_step:
            for name in COLLECTIVES:
                setattr(comm.cdb, name, counting(name))
        try:
            return take_step(number, data)
        finally:
            for name, original in originals.items():
                setattr(comm.cdb, name, original)

    trainer._take_step = step
    try:
        trainer.run()
        masters = flat_masters(trainer.engine.deepspeed)
        state = trainer.engine.deepspeed.optimizer.optimizer.state
        moments = [one for own in state.values() for name, one in own.items() if name != "step"]
        return Measured(
            dict(payload), dict(calls), _num_bytes(masters), _num_bytes(moments),
            sum(getattr(p, "ds_numel", p.numel()) for p in trainer.objective.parameters() if p.requires_grad),
        )  # fmt: skip
    finally:
        trainer.close()


def measure(recipe: Path, name: str, **overrides: Any) -> tuple[dict[str, Any], list[Measured]]:
    """A run of four steps on two ranks, and what each rank saw; also the overrides that it ran with."""
    overrides = {
        "run__output_dir": str(recipe.parent / name), "run__max_steps": 4, "run__validate_every": 100,
        "run__save_every": 100, "run__log_every": 100, **overrides,
    }  # fmt: skip
    return overrides, ranks(2).run(measured, recipe, overrides)


def _num_bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)
