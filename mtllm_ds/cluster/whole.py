"""Frozen weights that every rank keeps whole under ZeRO-3: DeepSpeed never learns of them, and neither shares them out nor gathers
them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from mtllm_ds.cluster.zero import gathered

_KEPT = "_kept_whole"
"""Attribute of the module that an engine takes: its whole weights"""


def keep_whole(module: nn.Module, parameters: Iterable[nn.Parameter], device: torch.device, dtype: torch.dtype) -> None:
    """Take frozen parameters out of a module's tree before an engine takes it, in shares until now or not.

    They stay attributes of their modules, whole on `device`, but are no `parameters()` any more. All ranks call it alike.
    """
    kept = list(parameters)
    for parameter in kept:
        assert not parameter.requires_grad, "DeepSpeed has to know what trains"
        _make_whole(parameter, device, dtype)
    chosen = {id(parameter) for parameter in kept}
    for part in module.modules():
        for name in [name for name, parameter in part._parameters.items() if id(parameter) in chosen]:
            part.__dict__[name] = part._parameters.pop(name)
    module.__dict__[_KEPT] = kept


def kept_whole(module: nn.Module) -> list[nn.Parameter]:
    """What `keep_whole` took out of this module."""
    return list(module.__dict__.get(_KEPT, ()))


def all_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """Those of the module's tree, and those that were taken out of it."""
    yield from module.parameters()
    yield from kept_whole(module)


def _make_whole(parameter: nn.Parameter, device: torch.device, dtype: torch.dtype) -> None:
    is_shared = hasattr(parameter, "ds_id")
    with gathered([parameter]):
        # What an engine would do to a parameter: cast it, and put it onto the device.
        whole = parameter.data.to(device, dtype if parameter.is_floating_point() else None, copy=is_shared)
    if is_shared:
        # The parameter itself stays, as others may hold it; all that ZeRO gave it goes.
        vars(parameter).clear()
    parameter.data = whole
