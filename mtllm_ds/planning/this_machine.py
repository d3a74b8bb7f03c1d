"""What a dry run says of a run's layout, with the memory of the machine that it runs on."""

from __future__ import annotations

from dataclasses import replace

from mtllm_ds.cluster.launch import device_alone
from mtllm_ds.config.schema import Settings
from mtllm_ds.errors import UserError
from mtllm_ds.observe.gpus import GPUS
from mtllm_ds.planning.hardware import Machine
from mtllm_ds.planning.paper import text_of
from mtllm_ds.planning.plan import Planner
from mtllm_ds.planning.report import layout_line
from mtllm_ds.preflight.whole import memory_of


def layout_lines(settings: Settings, num_ranks: int) -> list[str]:
    """What every rank keeps whole, and whether ZeRO-2 would send less; a step is planned as `mtllm-ds plan` does."""
    try:
        return _layout_lines(settings, num_ranks)
    except UserError:
        raise
    except Exception as error:  # the run itself need not fail: code of a model's own may know no tensors without data
        return [
            f"layout      not told: a step cannot be planned ({type(error).__name__}: {' '.join(str(error).split())[:160]})"
        ]


def _layout_lines(settings: Settings, num_ranks: int) -> list[str]:
    device = device_alone()
    # Of the device nothing enters but its memory: no seconds are told.
    gpu = replace(next(iter(GPUS.values())), memory_bytes=memory_of(device, num_ranks))
    planner = Planner(settings, text_of(settings, None, None))
    own = planner.plan(Machine(gpu=gpu, num_nodes=1, gpus_per_node=num_ranks))
    if own.zero.stage < 3:
        return []
    name, whole = next(planner.variants(own))
    return [*own.whole.lines(), *layout_line(own, {name: whole})]
