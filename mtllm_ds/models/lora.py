"""What trains of a base model: LoRA by PEFT, with a switch that leaves `requires_grad` alone, or weights of its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from mtllm_ds.config.sections import LoraSettings, ModelSettings
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
                f"model.lora.target_modules={settings.target_modules}: {str(error).splitlines()[0]}; "
                "name modules that the model has"
            ) from error


def let_train(model: PreTrainedModel, settings: ModelSettings, *, seed: int) -> PeftModel | PreTrainedModel:
    """The model with what `model.trainable` names set to train: LoRA added, or weights of its own unfrozen.

    Raises `UserError` where a named module is not there.
    """
    if settings.trainable == "lora":
        return add_lora(model, settings.lora, seed=seed)
    wanted = _prefixes(settings)
    require_modules(model, settings)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(f"{name}.".startswith(wanted))
    return model


def require_modules(model: PreTrainedModel, settings: ModelSettings) -> None:
    """Refuse names of `model.trainable` that the model (on any device, meta too) does not have; `UserError` tells those it has."""
    names = [f"{name}." for name, _ in model.named_parameters()]
    for prefix in _prefixes(settings):
        if not any(name.startswith(prefix) for name in names):
            children = ", ".join(name for name, _ in model.named_children())
            raise UserError(
                f"model.trainable={list(settings.trainable)}: this {model.config.model_type} model has no module "
                f"{prefix.removesuffix('.')}; below it there are {children}"
            )


def _prefixes(settings: ModelSettings) -> tuple[str, ...]:
    """What the names of weights that train begin with; nothing with LoRA."""
    if isinstance(settings.trainable, str):
        return ("",) if settings.trainable == "all" else ()
    return tuple(f"{name}." for name in settings.trainable)


def leave_unread(llm: PreTrainedModel, settings: ModelSettings) -> None:
    """Freeze the input embeddings of a stack's LLM: the connector's outputs take their place, so only weight decay would move them.

    Raises `UserError` where nothing else of the LLM was to train.
    """
    llm.get_input_embeddings().requires_grad_(False)
    if not any(parameter.requires_grad for parameter in llm.parameters()):
        raise UserError(
            f"model.trainable={list(settings.trainable)}: a stack's LLM never reads its input embeddings; name other modules"
        )


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


@contextmanager
def one_adapter(layers: list[BaseTunerLayer], name: str) -> Iterator[None]:
    """Of the adapters that act beside each other, this one alone inside."""
    before = [layer._active_adapter for layer in layers]
    for layer in layers:
        layer._active_adapter = [name]
    try:
        yield
    finally:
        for layer, active in zip(layers, before, strict=True):
            layer._active_adapter = active
