"""One forward and backward of a run's own objective, on the `meta` device: no weight is read and nothing is computed."""

from __future__ import annotations

from mtllm_ds.cluster.parameter_groups import parameter_groups
from mtllm_ds.config.sections import OptimSettings
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.models.int8_linear import num_more_weights
from mtllm_ds.objectives.base import Objective
from mtllm_ds.planning.hooks import ZeroHooks
from mtllm_ds.planning.operations import Operations, fused_attention
from mtllm_ds.planning.trace import Trace, Weight
from mtllm_ds.preflight.whole import frozen_parts


def rehearse(objective: Objective, batch: Batch, optim: OptimSettings) -> Trace:
    """What a micro-batch does. The objective lies on `meta` and is spent afterwards; the batch lies on the CPU."""
    groups = parameter_groups(objective, optim)
    group_of = {id(p): number for number, group in enumerate(groups) for p in group["params"]}
    part_of = {id(parameter): part for part, parameter in frozen_parts(objective)}
    hooks, operations = ZeroHooks(objective), Operations()
    objective.count(batch)
    on_paper = batch.to("meta")
    operations.hold([*objective.parameters(), *objective.buffers()])
    with operations, fused_attention(operations):
        with hooks.forward():
            loss = objective(on_paper).loss_sum
        with hooks.backward():
            loss.backward()
    return Trace(
        weights=[
            Weight(name, p.numel(), group_of.get(id(p)), part_of.get(id(p), "")) for name, p in hooks.weights.items()
        ],
        modules=hooks.modules,
        events=hooks.events,
        operations=operations.found,
        peak_bytes=operations.peak_bytes,
        head_bytes=operations.head_bytes,
        num_more_weights=num_more_weights(objective),
    )
