"""LoRA on the frozen LLM, by PEFT, and a switch that turns it off without touching `requires_grad`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from mtllm_ds.config.sections import LoraSettings
from mtllm_ds.errors import UserError


def add_lora(llm: nn.Module, settings: LoraSettings, *, seed: int) -> PeftModel:
    """Wrap the LLM's Linear layers; the start depends on `seed` alone and leaves the function unchanged (B = 0)."""
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of PEFT to transformers
        torch.manual_seed(seed)
        try:
            # ZeRO keeps one dtype per optimizer: the adapters must not be cast to fp32 behind our back.
            return get_peft_model(llm, config, autocast_adapter_dtype=False)
        except ValueError as error:
            raise UserError(
                f"model.lora.target_modules={settings.target_modules}: {str(error).splitlines()[0]}"
            ) from error


def lora_layers(module: nn.Module) -> list[BaseTunerLayer]:
    """All layers that carry an adapter."""
    return [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]


@contextmanager
def adapters_off(layers: list[BaseTunerLayer]) -> Iterator[None]:
    """The plain LLM inside. PEFT's own `disable_adapter` also flips `requires_grad` of every adapter."""
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
