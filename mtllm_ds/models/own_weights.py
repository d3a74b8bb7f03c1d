"""What a reader has beside its base models, by name: put in from a trained model, or kept for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig
from torch import nn

from mtllm_ds.errors import UserError
from mtllm_ds.models.centring import LanguageCentring
from mtllm_ds.models.readers import Reader
from mtllm_ds.models.stacked import StackedModel

START = "start"
_CENTRING = "centring."


def is_own(name: str) -> bool:
    """Whether a tensor of a reader is of no base model."""
    return name.startswith(("connector.", _CENTRING)) or ".lora_" in name


def own_tensors(reader: Reader) -> dict[str, torch.Tensor]:
    """Parameters and buffers of a reader that are of no base model, by name."""
    return {name: tensor for name, tensor in _tensors(reader).items() if is_own(name)}


def put_weights(reader: Reader, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy weights into a reader under its own names; a first adapter and centring are added where `weights` have them.

    Before an engine takes the reader: connector and LoRA are whole then, even under ZeRO-3.
    """
    add_centring(reader, weights)
    if not any(f".{START}." in name for name in own_tensors(reader)):
        add_frozen_adapter(reader, weights)
    own = own_tensors(reader)
    for name, value in weights.items():
        if name not in own or own[name].shape != value.shape:
            raise UserError(
                f"model.start: its {name} {tuple(value.shape)} has no place in this model; "
                "give model.lora.target_modules and model.connector as it was trained with"
            )
        own[name].data.copy_(value)


def add_centring(reader: Reader, weights: Mapping[str, torch.Tensor]) -> None:
    """Give the stack the means that `weights` hold, if they hold any."""
    held = {n.removeprefix(_CENTRING): value for n, value in weights.items() if n.startswith(_CENTRING)}
    if held:
        assert isinstance(reader, StackedModel)
        reader.centring = LanguageCentring(held["means"], held["tag_ids"])


def add_frozen_adapter(reader: Reader, weights: Mapping[str, torch.Tensor]) -> None:
    """Add the first adapter that `weights` hold under the name `start`, if any: frozen, without dropout, of scale 1.

    It acts beside the one that trains, which is what merging it into the base model means.
    """
    ranks = {tensor.shape[0] for name, tensor in weights.items() if f".lora_A.{START}." in name}
    if not ranks:
        return
    (rank,) = ranks
    trained: Any = reader.adapted.peft_config["default"]
    tuner: Any = reader.adapted.base_model
    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=trained.target_modules, bias="none")
    reader.adapted.add_adapter(START, config, autocast_adapter_dtype=False)
    tuner.set_adapter([START, "default"])
    dtype = next(p.dtype for n, p in reader.named_parameters() if ".lora_A.default." in n)
    for name, parameter in reader.named_parameters():
        if f".{START}." in name:
            parameter.data = parameter.data.to(dtype)
            parameter.requires_grad_(False)


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
