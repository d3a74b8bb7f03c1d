"""Modules whose weights ZeRO-3 gathers all at once, when the module itself is called, and not part by part."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def gather_without_gradients(module: nn.Module) -> None:
    """Let ZeRO-3 gather all of a frozen module's weights in one call, whatever it does in a forward that has no gradients. Before
    an engine takes it."""
    from deepspeed.utils import set_z3_leaf_module

    set_z3_leaf_module(module, True)


def gather_as_one(modules: Iterable[nn.Module]) -> None:
    """Let ZeRO-3 gather each of these in one call. Before an engine takes them; their states come as the first positional input.

    DeepSpeed 0.19.8 learns that the backward of such a module is over from the gradient of its input, and fails where there is
    none (a first layer behind frozen embeddings): the input is made to want one.
    """
    from deepspeed.utils import set_z3_leaf_module

    for module in modules:
        set_z3_leaf_module(module, True)
        module.register_forward_pre_hook(_wanting_gradient)  # before DeepSpeed's own, which looks at it


def _wanting_gradient(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    if not torch.is_grad_enabled() or not args or args[0].requires_grad:
        return None
    return args[0].detach().requires_grad_(), *args[1:]
