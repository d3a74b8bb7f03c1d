"""LoRA by name: between the reader's own names and PEFT's files, and two adapters made one.

Their names stand in `weight_names.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mtllm_ds.config.sections import LoraSettings
from mtllm_ds.errors import UserError
from mtllm_ds.weight_names import as_frozen, from_adapter_file, in_adapter_file, is_frozen_lora, is_lora


def with_frozen_adapter(weights: Mapping[str, torch.Tensor], lora: LoraSettings) -> dict[str, torch.Tensor]:
    """The names that a frozen first adapter has, B multiplied by the adapter's scale; other names stay."""
    scale = lora.alpha / lora.rank
    return {
        as_frozen(name) if is_lora(name) else name: tensor * scale if ".lora_B." in name else tensor
        for name, tensor in weights.items()
    }


def one_adapter(
    weights: Mapping[str, torch.Tensor], lora: LoraSettings
) -> tuple[dict[str, torch.Tensor], LoraSettings]:
    """A frozen first adapter and the trained one as a single adapter of the summed rank: the same function, exactly.

    B1 A1 + s B2 A2 = [B1, s B2] [A1; A2]; the scale of the result is 1.
    """
    if not any(is_frozen_lora(name) for name in weights):
        return dict(weights), lora
    scale = lora.alpha / lora.rank
    joined: dict[str, torch.Tensor] = {}
    rank = lora.rank
    for name, tensor in weights.items():
        if is_frozen_lora(name):
            continue
        if ".lora_A." in name:
            first = weights[as_frozen(name)]
            rank = lora.rank + first.shape[0]
            joined[name] = torch.cat([first, tensor])
        elif ".lora_B." in name:
            joined[name] = torch.cat([weights[as_frozen(name)], scale * tensor], dim=1)
        else:
            joined[name] = tensor
    return joined, lora.model_copy(update={"rank": rank, "alpha": rank})


def write_adapter(
    folder: Path, weights: Mapping[str, torch.Tensor], lora: LoraSettings, base: str, revision: str | None
) -> None:
    """An adapter in PEFT's own format: its files name no adapter and start at the adapted model."""
    from peft import LoraConfig

    adapter = {in_adapter_file(name): tensor for name, tensor in weights.items() if is_lora(name)}
    assert adapter, "no adapter"
    assert all(tensor.numel() for tensor in adapter.values()), "empty adapter"
    folder.mkdir()
    save_file(adapter, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in adapter}),
        bias="none",
        inference_mode=True,
        base_model_name_or_path=base,
        revision=revision,
    ).save_pretrained(str(folder))


def read_adapter(folder: Path, side: str) -> tuple[dict[str, torch.Tensor], LoraSettings]:
    """An adapter's weights under the names of a reader that adapts its `side`, and its settings."""
    try:
        tensors = load_file(folder / "adapter_model.safetensors")
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"export {folder.parent}: its adapter cannot be read ({error}); export it again") from error
    weights = {from_adapter_file(name, side): tensor for name, tensor in tensors.items()}
    lora = LoraSettings(
        rank=config["r"],
        alpha=config["lora_alpha"],
        dropout=config["lora_dropout"],
        target_modules=list(config["target_modules"]),
    )
    return weights, lora
