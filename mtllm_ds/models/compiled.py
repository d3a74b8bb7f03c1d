"""torch.compile of each layer of the model that trains.

A layer is what ZeRO-3 gathers at once, what activation checkpointing recomputes and what teacher and student share: its own forward
alone is compiled, and all of that stays around it as it is. Teacher, student and validation are graphs of their own, and so are
lengths that differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mtllm_ds.errors import UserError
from mtllm_ds.models.paired import layers_of
from mtllm_ds.models.readers import base_of

BACKEND = "inductor"
_MOST_GRAPHS = 64
"""Of one layer's code; beyond, torch goes on without compiling"""


def layers_to_compile(model: Any) -> list[nn.Module]:
    """Layers of a model of transformers, LoRA in place.

    Raises:
        UserError: they stand in no list.
    """
    try:
        owner, name = layers_of(base_of(model))
    except LookupError as error:
        raise UserError(
            f"training.compile=layers: of this {model.config.model_type} model {error}; set it to false"
        ) from error
    return list(owner.get_submodule(name).children())


def compile_layers(model: Any, device: torch.device) -> None:
    """Compile each layer's forward, before anything else takes its place.

    Raises:
        UserError: this machine cannot compile, or the model has no list of layers.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_GRAPHS)
    try:
        _compiled(torch.nn.functional.silu)(torch.ones(8, device=device))
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise UserError(
            f"training.compile=layers: torch.compile does not work on this machine ({why}); set it to false"
        ) from error
    for layer in layers_to_compile(model):
        layer.forward = _compiled(layer.forward)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # Dropout is drawn as without compiling.
    options: dict[str, Any] | None = {"fallback_random": True} if BACKEND == "inductor" else None
    return torch.compile(function, backend=BACKEND, options=options)
