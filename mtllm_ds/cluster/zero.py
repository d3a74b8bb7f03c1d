"""The only door to ZeRO: partitioned loading, gathers, and the full state of a trainable parameter by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

# What is kept of a trainable parameter: its fp32 master and Adam's two moments, all of the parameter's shape.
MASTER = "fp32"
MOMENTS = ("exp_avg", "exp_avg_sq")


@contextmanager
def partitioned_loading(ds_config: dict[str, Any]) -> Iterator[None]:
    """Inside, `from_pretrained` under ZeRO-3 hands every rank its share of the weights only."""
    from transformers.integrations import HfDeepSpeedConfig

    # transformers holds a weak reference: the object must live as long as models are being loaded.
    alive = HfDeepSpeedConfig(ds_config) if _is_stage3(ds_config) else None
    try:
        with _one_group_of_copies():
            yield
    finally:
        if alive is not None:
            from transformers.integrations.deepspeed import unset_hf_deepspeed_config

            unset_hf_deepspeed_config()


@contextmanager
def _one_group_of_copies() -> Iterator[None]:
    """Let all models share the group of ranks that keep copies of the weights between them (`zero_hpz_partition_size`).

    DeepSpeed 0.19.8 makes it anew for each model that is loaded, and asserts that there is none yet.
    """
    from deepspeed import comm
    from deepspeed.utils import groups

    make = groups._create_zero_param_parallel_group

    def make_once(size: int) -> None:
        if groups._get_zero_param_intra_parallel_group() is None:
            make(size)

    # An earlier run of this process may have left one of another size.
    if (left := groups._get_zero_param_intra_parallel_group()) is not None:
        comm.destroy_process_group(left)
    groups._create_zero_param_parallel_group = make_once
    try:
        yield
    finally:
        groups._create_zero_param_parallel_group = make


def buffers_to(module: nn.Module, device: torch.device) -> None:
    """Move every buffer to a device: of a model with partitioned weights DeepSpeed moves none."""
    for part in module.modules():
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to(device)


def forget_module(module: nn.Module) -> None:
    """Let go of a module whose engine is closed. DeepSpeed 0.19.8 keeps each that ran under ZeRO-3 for good: in a list of
    what is being run, and in a cache of what a step may release."""
    from deepspeed.runtime.zero import parameter_offload
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator as Coordinator

    stack = parameter_offload.FWD_MODULE_STACK
    stack[:] = [running for running in stack if running is not module]
    instrumented = Coordinator._PartitionedParameterCoordinator__params_to_release
    inspect.getclosurevars(instrumented).nonlocals["func"].cache_clear()


@contextmanager
def gathered(parameters: Iterable[nn.Parameter], modify: bool = False) -> Iterator[None]:
    """Full values of partitioned parameters inside; with `modify`, rank 0's changes are kept on all ranks."""
    sharded = [p for p in parameters if hasattr(p, "ds_id")]
    if not sharded:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(sharded, modifier_rank=0 if modify else None):
        yield


def remade(parameter: nn.Parameter, make: Callable[[torch.Tensor], torch.Tensor]) -> nn.Parameter:
    """A frozen parameter of what `make` makes of a whole one, in shares if that was in shares; the old one is given up.

    Called by all ranks alike.
    """
    assert not parameter.requires_grad, "an optimizer may hold it"
    with gathered([parameter]):
        new = nn.Parameter(make(parameter.data), requires_grad=False)
    if hasattr(parameter, "ds_id"):
        parameter.convert_to_zero_parameters([new])  # type: ignore[attr-defined]
        # What ZeRO gave the old one refers to it in circles, and would keep its share until some later collection of garbage.
        vars(parameter).clear()
    return new


def full_numel(parameter: nn.Parameter) -> int:
    """Number of elements of the whole parameter, partitioned or not."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def full_shape(tensor: torch.Tensor) -> torch.Size:
    """Shape of the whole tensor, a partitioned parameter or any other."""
    return torch.Size(getattr(tensor, "ds_shape", tensor.shape))


class TrainableState:
    """Full fp32 state of the engine's trainable parameters, by name; every method is called by all ranks alike.

    DeepSpeed keeps masters and moments in flat, padded shards; here they are tensors of the parameters' own shapes,
    which any other number of ranks can take up again.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.optimizer = engine.optimizer
        self.stage = int(engine.zero_optimization_stage())
        self.parameters = {n: p for n, p in engine.module.named_parameters() if p.requires_grad}
        self._link_moments()

    def get(self, name: str, key: str) -> torch.Tensor:
        """`key` of one parameter, gathered: fp32, on the CPU."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        parameter = self.parameters[name]
        full = safe_get_full_fp32_param(parameter) if key == MASTER else safe_get_full_optimizer_state(parameter, key)
        assert full is not None, f"no {key} of {name}"
        return full.detach().float().cpu().contiguous().clone()

    def set(self, name: str, key: str, value: torch.Tensor) -> None:
        """Write one full fp32 tensor back into this rank's shard (and, for the master, into the weights in use)."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        parameter = self.parameters[name]
        if self.stage == 3:
            self._set_stage3(parameter, key, value)
        elif key == MASTER:
            safe_set_full_fp32_param(parameter, value.to(parameter.device))
            parameter.data.copy_(value)
        else:
            safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)

    def num_updates(self) -> int:
        """Optimizer updates made so far (Adam's `step`)."""
        states = list(self.optimizer.optimizer.state.values())
        return int(states[0]["step"]) if states else 0

    def begin(self, num_updates: int) -> None:
        """Create Adam's state as it stands after `num_updates` updates; the moments follow by `set`."""
        inner = self.optimizer.optimizer
        for flat in flat_masters(self.engine):
            moments = {key: torch.zeros_like(flat) for key in MOMENTS}
            inner.state[flat] = {"step": torch.tensor(float(num_updates)), **moments}
        self._link_moments()

    def _link_moments(self) -> None:
        """Let ZeRO-2's parameters know their moments."""
        if self.stage == 3 or not self.optimizer.optimizer.state:
            return
        # DeepSpeed 0.19.8 links them once, after the *first* group's first update, when the others have none yet.
        self.optimizer._hp_optimizer_states_linked = False
        self.optimizer._lazy_init_hp_params_optimizer_state()

    def _set_stage3(self, parameter: Any, key: str, value: torch.Tensor) -> None:
        from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        mine = self._local_part(parameter, value)
        if key != MASTER:
            safe_set_local_optimizer_state(parameter, mine, key)
            return
        safe_set_local_fp32_param(parameter, mine)
        parameter.ds_tensor.data.copy_(mine.to(parameter.ds_tensor.dtype))
        # The copy that a node's ranks keep between them still holds the old weights; DeepSpeed makes it anew where there is none.
        parameter.ds_secondary_tensor = None
        # A small parameter below the persistence threshold stays gathered: refresh that copy too.
        if parameter.ds_status == ZeroParamStatus.AVAILABLE:
            parameter.data.copy_(value)

    def _local_part(self, parameter: Any, value: torch.Tensor) -> torch.Tensor:
        import torch.distributed as dist

        part = parameter.ds_tensor.ds_numel
        flat = value.flatten()
        padded = torch.nn.functional.pad(flat, (0, part * dist.get_world_size() - flat.numel()))
        rank = dist.get_rank()
        return padded[part * rank : part * (rank + 1)].to(parameter.ds_tensor.device)


def largest_master(engine: Any) -> float:
    """Largest magnitude among this rank's share of the fp32 masters; NaN or infinite if one of them is."""
    largest = [torch.linalg.vector_norm(flat.detach(), float("inf")) for flat in flat_masters(engine) if flat.numel()]
    return float(torch.stack(largest).max()) if largest else 0.0


def flat_masters(engine: Any) -> list[torch.Tensor]:
    """This rank's flat shards of the fp32 masters, one a parameter group."""
    optimizer = engine.optimizer
    is_stage3 = int(engine.zero_optimization_stage()) == 3
    return list(optimizer.fp32_partitioned_groups_flat if is_stage3 else optimizer.single_partition_of_fp32_groups)


def _is_stage3(ds_config: dict[str, Any]) -> bool:
    return int(ds_config.get("zero_optimization", {}).get("stage", 0)) == 3
