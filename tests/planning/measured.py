"""What a run on real ranks asks of its collectives and keeps in memory: the truth that plans are held against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mtllm_ds.cluster.collectives import COUNTS, CollectiveCounts
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.cluster.whole import kept_whole
from mtllm_ds.cluster.zero import flat_masters
from mtllm_ds.training.assemble import open_run
from tests.distributed.ranks import ranks
from tests.fixtures.runs import settings_of


@dataclass(frozen=True)
class Measured:
    """Of one rank, in one step that neither validates nor saves."""

    payload_bytes: dict[str, int]
    """By collective, of DeepSpeed's own: of a gather what comes out, of others what goes in"""
    calls: dict[str, int]
    master_bytes: int
    moment_bytes: int
    num_trained: int
    weight_bytes: int
    """Between two steps: shares, and what is whole; without hpZ's copies, which DeepSpeed makes anew in each step"""
    gradient_bytes: int | None
    """Partitions and buckets; ZeRO-2 makes them in each step"""


def measured(recipe: Path, overrides: dict[str, Any]) -> Measured:
    """On a rank: train, and count in the last step."""
    trainer = open_run(settings_of(recipe, **overrides), join_cluster(), False, Console(quiet=True))
    counted: list[CollectiveCounts] = []
    between: list[tuple[int, int | None]] = []
    take_step = trainer._take_step

    def step(number, data):
        before = COUNTS.copy()
        taken = take_step(number, data)
        counted.append(COUNTS.since(before))
        between.append(_between_steps(trainer.engine.deepspeed))
        return taken

    trainer._take_step = step
    try:
        trainer.run()
        masters = flat_masters(trainer.engine.deepspeed)
        state = trainer.engine.deepspeed.optimizer.optimizer.state
        moments = [one for own in state.values() for name, one in own.items() if name != "step"]
        return Measured(
            _of_deepspeed(counted[-1].payload_bytes), _of_deepspeed(counted[-1].calls), _num_bytes(masters), _num_bytes(moments),
            sum(getattr(p, "ds_numel", p.numel()) for p in trainer.objective.parameters() if p.requires_grad),
            *between[-1],
        )  # fmt: skip
    finally:
        trainer.close()


def _of_deepspeed(counted: dict[str, int]) -> dict[str, int]:
    return {kind: number for kind, number in counted.items() if kind != "agreement"}


def _between_steps(engine: Any) -> tuple[int, int | None]:
    """Bytes of weights and gradients."""
    parameters, optimizer = list(engine.module.parameters()), engine.optimizer
    whole = kept_whole(engine.module)
    if engine.zero_optimization_stage() == 2:
        frozen = [p for p in parameters if not p.requires_grad]
        return _num_bytes([*frozen, *optimizer.bit16_groups_flat]), None
    buckets = [bucket.buffer for bucket in optimizer.ipg_buckets.values()]
    weights = _num_bytes([*(p.ds_tensor for p in parameters), *parameters, *whole])  # what is away has no element
    return weights, _num_bytes([optimizer.grad_partitions_flat_buffer, *buckets])


def measure(recipe: Path, name: str, **overrides: Any) -> tuple[dict[str, Any], list[Measured]]:
    """A run of four steps on two ranks, and what each rank saw; also the overrides that it ran with."""
    overrides = {
        "run__output_dir": str(recipe.parent / name), "run__max_steps": 4, "run__validate_every": 100,
        "run__save_every": 100, "run__log_every": 100, **overrides,
    }  # fmt: skip
    return overrides, ranks(2).run(measured, recipe, overrides)


def _num_bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)
