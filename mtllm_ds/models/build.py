"""From settings to a reader: base models loaded and frozen, connector and LoRA on top of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from mtllm_ds.cluster.leaves import gather_as_one, gather_without_gradients
from mtllm_ds.config.names import is_missing_folder, resolve_model_name
from mtllm_ds.config.schema import Settings
from mtllm_ds.config.sections import EncoderSettings, LLMSettings, ModelSettings
from mtllm_ds.errors import UserError
from mtllm_ds.models.base_dropout import switch_off_dropout
from mtllm_ds.models.compiled import layers_to_compile
from mtllm_ds.models.connector import build_connector
from mtllm_ds.models.encoders import let_top_layers_train, load_encoder
from mtllm_ds.models.int8_linear import dequantise_layers
from mtllm_ds.models.layer_mix import LayerMix
from mtllm_ds.models.liger import use_liger_kernels
from mtllm_ds.models.loading import base_fingerprint, choose_attention, is_same_model, load_llm
from mtllm_ds.models.lora import leave_unread, let_train
from mtllm_ds.models.own_weights import put_weights
from mtllm_ds.models.readers import EncoderReader, LLMReader, Reader
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.models.text_models import embedding_size


def build_reader(settings: Settings, device: torch.device) -> Reader:
    """The reader of a recipe, frozen but for connector, what `model.trainable` names and top layers of a stack's encoder; call it
    inside `partitioned_loading`."""
    return new_reader(settings.model, device, dtype_of(settings), settings.run.seed)


def arrange_reader(reader: Reader, settings: Settings) -> None:
    """The last before an objective takes a reader: what is gathered together, does its connector train, what is recomputed?"""
    if isinstance(reader, StackedModel):
        if not reader.encoder.trains:
            gather_without_gradients(reader.encoder)
        if not settings.connector_trains:
            reader.connector.requires_grad_(False)
            if reader.layer_mix is not None:
                reader.layer_mix.requires_grad_(False)
    if settings.training.compile:
        gather_as_one(layers_to_compile(reader.trained_model))
    if settings.training.activation_checkpointing:
        reader.trained_model.gradient_checkpointing_enable({"use_reentrant": False})
        # Inputs that want a gradient are a need of the reentrant kind; for theirs ZeRO-3 would gather the embeddings in backward.
        reader.trained_model.disable_input_require_grads()


def dtype_of(settings: Settings) -> torch.dtype:
    """Precision of the frozen models and of the forward."""
    return torch.bfloat16 if settings.training.precision == "bf16" else torch.float32


def new_reader(model: ModelSettings, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Reader:
    """A reader on its base models, connector and LoRA at their start; weights lie on the CPU (or partitioned)."""
    attention = choose_attention(model.attention, device, dtype)
    reader = _BUILDERS[model.reader](model, attention, device, dtype, seed)
    reader.pooling = model.pooling
    return reader


def load_reader(
    model: ModelSettings, weights: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype
) -> Reader:
    """A trained reader, frozen, in evaluation mode and on `device`; `weights` are those of `checkpoint.model.Trained`."""
    reader = new_reader(model, device, dtype)
    put_weights(reader, weights)
    return reader.to(device).eval().requires_grad_(False)


def merged(llm: Any, model: ModelSettings) -> PreTrainedModel:
    """A reader's LLM with its LoRA in its weights, whole on this rank; 8-bit weights become what they stand for."""
    dequantise_layers(llm)
    plain: PreTrainedModel = llm.merge_and_unload() if model.trainable == "lora" else llm
    return plain


def base_reader(
    settings: EncoderSettings | LLMSettings, device: torch.device, dtype: torch.dtype
) -> EncoderReader | LLMReader:
    """A base model as it is, with nothing trained, frozen, in evaluation mode and on `device`."""
    attention = choose_attention("auto", device, dtype)
    reader: EncoderReader | LLMReader
    if isinstance(settings, EncoderSettings):
        model: Any = load_encoder(settings, attention, dtype).model
        reader = EncoderReader(model)
    else:
        reader = LLMReader(load_llm(settings, attention, dtype))
    return reader.to(device).eval().requires_grad_(False)


def located(
    model: ModelSettings, bases: Mapping[str, Mapping[str, Any]], where: str, places: Mapping[str, str]
) -> ModelSettings:
    """The settings with base models at their old or (`places`, by side) their new place, checked to be the same models."""
    update: dict[str, Any] = {}
    for side in model.sides:
        settings = getattr(model, side)
        place = resolve_model_name(places.get(side, settings.name))
        if place != settings.name:
            settings = settings.model_copy(update={"name": place, "revision": None})
        if is_missing_folder(settings.name):
            raise UserError(
                f"{where}: its {side} was at {settings.name}, which is gone; pass {side}=<folder or hub name>"
            )
        _require_same_weights(settings, bases[side], f"{where}: {side} {settings.name}")
        update[side] = settings
    return model.model_copy(update=update)


def _require_same_weights(settings: EncoderSettings | LLMSettings, base: Mapping[str, Any], where: str) -> None:
    found, trained_on = base_fingerprint(settings), str(base["fingerprint"])
    is_same = is_same_model(settings.name, found, base)
    if is_same is None:
        known = f"{base['name']}, {trained_on}"
        warnings.warn(
            f"{where}: cannot be compared with the model it was trained on ({known}); make sure it is that",
            stacklevel=3,
        )
    elif not is_same:
        raise UserError(f"{where}: not the model it was trained on ({found} instead of {trained_on}); pass that one")


def _stacked(model: ModelSettings, attention: str, device: torch.device, dtype: torch.dtype, seed: int) -> Reader:
    encoder = load_encoder(model.given_encoder, attention, dtype, model.connector)
    let_top_layers_train(encoder.model, model.given_encoder.num_trainable_layers)
    layer_mix = LayerMix(len(encoder.layers), dtype) if encoder.layers else None
    llm = _llm(model, attention, device, dtype, seed)
    connector = build_connector(model.connector, encoder.hidden_size, embedding_size(llm), seed=seed, dtype=dtype)
    trained = let_train(llm, model, seed=seed)
    if model.trainable != "lora":
        leave_unread(llm, model)
    return StackedModel(encoder, connector, trained, layer_mix)


def _llm_alone(model: ModelSettings, attention: str, device: torch.device, dtype: torch.dtype, seed: int) -> Reader:
    return LLMReader(let_train(_llm(model, attention, device, dtype, seed), model, seed=seed))


def _encoder_alone(model: ModelSettings, attention: str, device: torch.device, dtype: torch.dtype, seed: int) -> Reader:
    encoder: Any = load_encoder(model.given_encoder, attention, dtype).model
    switch_off_dropout(encoder)
    return EncoderReader(let_train(encoder, model, seed=seed))


def _llm(model: ModelSettings, attention: str, device: torch.device, dtype: torch.dtype, seed: int) -> Any:
    llm = load_llm(model.given_llm, attention, dtype, seed=seed)
    if model.liger:
        use_liger_kernels(llm, device)
    return llm


_BUILDERS: dict[str, Callable[[ModelSettings, str, torch.device, torch.dtype, int], Reader]] = {
    "stacked": _stacked,
    "llm": _llm_alone,
    "encoder": _encoder_alone,
}
