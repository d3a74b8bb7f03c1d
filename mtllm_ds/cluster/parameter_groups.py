"""Which trainable parameters AdamW, and so ZeRO, takes together."""

from __future__ import annotations

from typing import Any

from torch import nn

from mtllm_ds.cluster.zero import full_shape
from mtllm_ds.config.sections import OptimSettings
from mtllm_ds.weight_names import is_of_encoder, trains_with_connector


def parameter_groups(module: nn.Module, optim: OptimSettings) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate (connector, encoder, all others) and weight decay (matrices only)."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = _own_rate(name, optim)
        decay = optim.weight_decay if len(full_shape(parameter)) > 1 else 0.0
        groups.setdefault((rate or optim.learning_rate, decay), []).append(parameter)
    return [
        {"params": members, "lr": rate, "base_lr": rate, "weight_decay": decay}
        for (rate, decay), members in groups.items()
    ]


def _own_rate(name: str, optim: OptimSettings) -> float | None:
    """None where a parameter has the main one."""
    if trains_with_connector(name):
        return optim.connector_learning_rate
    return optim.encoder_learning_rate if is_of_encoder(name) else None
