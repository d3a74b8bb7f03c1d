"""Modules of an engine, run outside of its forward: what generation needs under ZeRO-3.

DeepSpeed's hooks gather a module's weights when it runs, and note in a *trace* which module comes next, so as to gather ahead.
Modules that run beside the engine's forward would make that trace wrong: it is thrown away, every gather of later steps comes late,
and a backward that recomputes layers can meet weights that are not there. So while they run, a second coordinator without a trace
stands in for the engine's own, which sees nothing of it; weights that were whole before stay so, all others are given back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from mtllm_ds.cluster.zero import gathered

_KEEPS_WHOLE = -1
"""Stands among the modules that are using a weight: no module has that number, so nothing but this file lets go of it."""


@contextmanager
def outside_forward(engine: Any, whole: Iterable[nn.Parameter] = ()) -> Iterator[None]:
    """Inside, parts of the engine's module may run by themselves, without gradients; weights of `whole` are gathered throughout,
    others module by module. All ranks enter it, and run the same modules equally often."""
    offload = getattr(engine.optimizer, "parameter_offload", None)
    if offload is None:  # every rank holds all weights
        yield
        return
    own = offload.param_coordinator
    own._clean_inflight_param_registry()  # what was gathered ahead and is not used yet
    with ExitStack() as stack:
        stack.enter_context(gathered(p for p in whole if _is_away(p)))
        kept = [p for p in engine.module.parameters() if not _is_away(p)]
        for parameter in kept:
            parameter.ds_active_sub_modules.add(_KEEPS_WHOLE)
        offload.param_coordinator = _without_trace(offload)
        try:
            yield
        finally:
            offload.param_coordinator = own
            for parameter in kept:
                parameter.ds_active_sub_modules.discard(_KEEPS_WHOLE)


def _is_away(parameter: Any) -> bool:
    """Whether ranks hold shares of it alone; a weight that every rank keeps whole is none of ZeRO's."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    return getattr(parameter, "ds_status", None) == ZeroParamStatus.NOT_AVAILABLE


def _without_trace(offload: Any) -> Any:
    """A coordinator of the engine's kind that gathers for each module what it needs, then and there."""
    from deepspeed.accelerator import get_accelerator
    from deepspeed.runtime.zero.partitioned_param_coordinator import (
        InflightParamRegistry,
        PartitionedParameterCoordinator,
    )

    accelerator = get_accelerator()
    return PartitionedParameterCoordinator(
        prefetch_bucket_sz=0,
        max_reuse_distance_in_numel=0,
        max_available_parameters_in_numel=0,
        allgather_stream=None if accelerator.is_synchronized_device() else accelerator.current_stream(),
        inflight_param_registry=InflightParamRegistry(),
        zero_quantized_weights=offload.zero_quantized_weights,
        zero_quantized_nontrainable_weights=offload.zero_quantized_nontrainable_weights,
    )
