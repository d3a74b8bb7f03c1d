"""A plan made to agree with a step that was measured, so that what it says of more GPUs begins at a fact."""

from __future__ import annotations

from dataclasses import replace

from mtllm_ds.errors import UserError
from mtllm_ds.planning.hardware import Machine
from mtllm_ds.planning.plan import Planner

SLOWEST = 1e4
"""Times slower than the roofline than nobody measures"""


def calibrated(planner: Planner, machine: Machine, num_gpus: int, seconds: float) -> Machine:
    """The machine, its operators slower (or faster) by the one factor with which the planner's recipe takes `seconds` for a step on
    `num_gpus` of its GPUs. Networks stay as assumed, since what they took cannot be told from a step's seconds.

    Raises:
        UserError: the collectives of that step alone take longer, or nothing that slow can be meant.
    """
    per_node = min(num_gpus, machine.gpus_per_node)
    if num_gpus % per_node:
        raise UserError(
            f"--measured-gpus={num_gpus}: no multiple of the {per_node} GPUs of a node; give one, or set --gpus-per-node"
        )
    there = replace(machine, num_nodes=num_gpus // per_node, gpus_per_node=per_node)

    def step_seconds(slowdown: float) -> float:
        return planner.plan(replace(there, slowdown=slowdown)).time.step

    low, high = 1 / SLOWEST, SLOWEST
    fastest, slowest = step_seconds(low), step_seconds(high)
    if not fastest < seconds < slowest:
        raise UserError(
            f"--measured-step={seconds:g}: on {num_gpus} GPUs this recipe takes {fastest:.3g} s for collectives alone, and "
            f"{slowest:.3g} s with operators {SLOWEST:g} times slower than the roofline; give seconds of a step between the two"
        )
    while high / low > 1 + 1e-6:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if step_seconds(middle) < seconds else (low, middle)
    return replace(machine, slowdown=high)
