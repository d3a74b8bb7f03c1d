"""Weights of a trained model, put into a new one by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig
from torch import nn

from mtllm_ds.cluster.zero import full_shape, gathered
from mtllm_ds.errors import UserError
from mtllm_ds.models.centring import LanguageCentring
from mtllm_ds.models.readers import Reader
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.weight_names import CENTRING, START, is_frozen_lora, part


def put_weights(reader: Reader, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy weights into a reader under its own names; a first adapter and centring are added where `weights` have them.

    Before an engine takes the reader: connector and LoRA are whole then, even under ZeRO-3, where weights of base models are
    partitioned already; all ranks put the same.
    """
    add_centring(reader, weights)
    if not any(is_frozen_lora(name) for name in _tensors(reader)):
        add_frozen_adapter(reader, weights)
    tensors = _tensors(reader)
    for name, value in weights.items():
        if name not in tensors or full_shape(tensors[name]) != value.shape:
            raise UserError(
                f"model.start: its {name} {tuple(value.shape)} has no place in this model; give model.trainable, "
                "model.lora.target_modules and model.connector as it was trained with"
            )
        _put(tensors[name], value)


def add_centring(reader: Reader, weights: Mapping[str, torch.Tensor]) -> None:
    """Give the stack the means that `weights` hold, if they hold any."""
    held = part(weights, CENTRING)
    if held:
        assert isinstance(reader, StackedModel)
        reader.centring = LanguageCentring(held["means"], held["tag_ids"])


def add_frozen_adapter(reader: Reader, weights: Mapping[str, torch.Tensor]) -> None:
    """Add the first adapter that `weights` hold under the name `start`, if any: frozen, without dropout, of scale 1.

    It acts beside the one that trains, which is what merging it into the base model means.
    """
    ranks = {tensor.shape[0] for name, tensor in weights.items() if is_frozen_lora(name) and ".lora_A." in name}
    if not ranks:
        return
    (rank,) = ranks
    trained: Any = reader.trained_model.peft_config["default"]
    tuner: Any = reader.trained_model.base_model
    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=trained.target_modules, bias="none")
    reader.trained_model.add_adapter(START, config, autocast_adapter_dtype=False)
    tuner.set_adapter([START, "default"])
    dtype = next(p.dtype for n, p in reader.named_parameters() if ".lora_A.default." in n)
    for name, parameter in reader.named_parameters():
        if is_frozen_lora(name):
            parameter.data = parameter.data.to(dtype)
            parameter.requires_grad_(False)


def _put(tensor: torch.Tensor, value: torch.Tensor) -> None:
    with gathered([tensor] if isinstance(tensor, nn.Parameter) else [], modify=True):
        tensor.data.copy_(value)


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
