"""What the planner makes of a step that was measured on one GPU: the same work on each of 8 to 4,096."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.training.material import RECIPE
from mtllm_ds.config import load_settings
from mtllm_ds.observe.gpus import GPUS, gpu_of
from mtllm_ds.planning.calibrate import calibrated
from mtllm_ds.planning.hardware import Machine
from mtllm_ds.planning.paper import text_of
from mtllm_ds.planning.plan import Planner
from mtllm_ds.planning.report import draw_scaling

GPUS_PER_NODE = 8


def draw_from_one_gpu(folder: Path, seconds: float) -> tuple[bytes, dict[int, float]]:
    """PNG, and documents a second by number of GPUs, of the recipe in `folder`, a step of which took `seconds` on this GPU.

    Every document is taken to be `max_length` tokens long. A device that is not known, or no GPU at all (a rehearsal), counts as an
    H200: the figures are then of no use.
    """
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    settings = load_settings(folder / RECIPE, [])
    planner = Planner(settings, text_of(settings, None, None))
    machine = Machine(gpu=gpu_of(name) or GPUS["h200"], num_nodes=1, gpus_per_node=1)
    own = planner.plan(calibrated(planner, machine, 1, seconds))
    node = replace(own.machine, gpus_per_node=GPUS_PER_NODE)
    scaling = planner.scaling(replace(own, machine=node, samples_per_step=own.samples_per_step * GPUS_PER_NODE))
    title = f"{own.samples_per_step} documents on each {machine.gpu.name}, {GPUS_PER_NODE} a node"
    return draw_scaling(scaling, title), {
        plan.machine.num_ranks: plan.samples_per_second for plan in scaling["as it is"]
    }
