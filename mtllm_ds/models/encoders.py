"""One small adapter an encoder family: how to load the encoder alone, and how wide its states are."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig

from mtllm_ds.cluster.zero import buffers_to
from mtllm_ds.config.sections import ConnectorSettings, EncoderSettings
from mtllm_ds.errors import UserError
from mtllm_ds.models import whole_masks
from mtllm_ds.models.layer_mix import layers_read, normalised
from mtllm_ds.models.loading import load_config, load_weights, supported_attention
from mtllm_ds.models.paired import layers_of
from mtllm_ds.models.text_models import state_size
from mtllm_ds.observe.flops import note_padded
from mtllm_ds.step_parts import in_part


@dataclass(frozen=True)
class EncoderFamily:
    """How to load one family's encoder without its decoder."""

    model_class: str
    """Class of transformers that holds the encoder alone."""
    key_mapping: dict[str, str] = field(default_factory=dict)
    """Names in a whole model's checkpoint (regular expression) -> names in the encoder."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further constructor options."""
    config_path: tuple[str, ...] = ()
    """Where the encoder's own configuration stands in the whole model's."""


FAMILIES = {
    "m2m_100": EncoderFamily("M2M100Encoder", {r"^model\.encoder\.": "", r"^model\.shared\.": "embed_tokens."}),
    "t5": EncoderFamily("T5EncoderModel"),
    "mt5": EncoderFamily("MT5EncoderModel"),
    "umt5": EncoderFamily("UMT5EncoderModel"),
    "t5gemma": EncoderFamily("T5GemmaEncoder", {r"^(model\.)?encoder\.": ""}, config_path=("encoder",)),
    "t5gemma2": EncoderFamily(
        "T5Gemma2TextEncoder", {r"^(model\.)?encoder\.(text_model\.)?": ""}, config_path=("encoder", "text_config")
    ),
    "xlm-roberta": EncoderFamily("XLMRobertaModel", options={"add_pooling_layer": False}),
    "bert": EncoderFamily("BertModel", options={"add_pooling_layer": False}),
    "modernbert": EncoderFamily("ModernBertModel"),
    "eurobert": EncoderFamily("EuroBertModel"),
    "gte": EncoderFamily("GteModel"),
    "new": EncoderFamily("AutoModel", options={"add_pooling_layer": False}),  # GTE with code of its own
}


class StackEncoder(nn.Module):
    """The encoder of a stack: always in evaluation mode and, while nothing of it trains, called without gradients. Where its top
    layers do (`let_top_layers_train`), autograd begins at the first of them, and keeps nothing of what is below.

    Args:
        layers: the layers whose states it gives; none: its final states alone
    """

    def __init__(self, model: nn.Module, hidden_size: int, layers: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.model = model.eval()
        self.hidden_size = hidden_size
        self.layers = layers

    @property
    def trains(self) -> bool:
        """Whether any of its weights does."""
        return any(parameter.requires_grad for parameter in self.model.parameters())

    def train(self, mode: bool = True) -> StackEncoder:
        """Stay in evaluation mode: dropout and layerdrop would change the states (and desynchronise ranks)."""
        return super().train(False)

    def stand_apart(self, device: torch.device) -> None:
        """Leave the tree of modules, buffers on `device`, so that an engine does not see it; its weights must be whole."""
        buffers_to(self.model, device)
        self.__dict__["model"] = self._modules.pop("model")

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """Final hidden states: (B, S) int64 ids and mask -> (B, S, hidden_size); with `layers` one such tensor each, normalised. Of
        lists a list, for which ZeRO-3 gathers a frozen encoder in shares but once."""
        with in_part("encoder"), torch.set_grad_enabled(torch.is_grad_enabled() and self.trains):
            if isinstance(input_ids, torch.Tensor):
                return self._states(input_ids, attention_mask)
            return [self._states(ids, mask) for ids, mask in zip(input_ids, attention_mask, strict=True)]

    @torch.no_grad()
    def final_states(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Its final hidden states, whichever layers are read: (B, S) -> (B, S, hidden_size). Outside of an engine only."""
        whole = whole_masks.attention_mask(self.model, attention_mask, causal=False)
        states: torch.Tensor = self.model(input_ids=input_ids, attention_mask=whole).last_hidden_state
        return states

    def _states(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        note_padded(self.model, attention_mask)
        whole = whole_masks.attention_mask(self.model, attention_mask, causal=False)
        if not self.layers:
            states: torch.Tensor = self.model(input_ids=input_ids, attention_mask=whole).last_hidden_state
            return states
        told = self.model(input_ids=input_ids, attention_mask=whole, output_hidden_states=True)
        # What stands last there has not passed the final norm in every family.
        by_layer = (*(told.hidden_states or ())[:-1], told.last_hidden_state)
        if len(by_layer) <= max(self.layers):
            raise UserError(
                f"model.connector.layers: this encoder ({type(self.model).__name__}) tells the states of {len(by_layer)} layers "
                "only; set it to last"
            )
        return tuple(normalised(by_layer[layer]) for layer in self.layers)


def encoder_family(settings: EncoderSettings) -> tuple[str, PretrainedConfig]:
    """Family name and config of the encoder; `UserError` for a model that has none."""
    config = load_config(settings.name, settings.revision, settings.trust_remote_code, "model.encoder.name")
    family = config.model_type if settings.family == "auto" else settings.family
    if family not in FAMILIES or config.model_type not in FAMILIES:
        raise UserError(
            f"model.encoder.name={settings.name}: a {config.model_type} model has no encoder to load; "
            f"families with one: {', '.join(FAMILIES)}"
        )
    if family != config.model_type:
        raise UserError(
            f"model.encoder.family={settings.family}: {settings.name} is a {config.model_type} model; "
            "set model.encoder.family=auto"
        )
    return family, config


def check_encoder(settings: EncoderSettings, connector: ConnectorSettings) -> None:
    """Refuse an encoder that cannot be loaded, or has not the layers that are to train or that the connector is to read;
    `UserError`."""
    name, config = encoder_family(settings)
    own_config = _own_config(FAMILIES[name], config)
    layers = layers_read(connector.layers, own_config)
    count, last = settings.num_trainable_layers, int(own_config.num_hidden_layers)
    where = f"model.encoder.num_trainable_layers={count}"
    if count > last:
        raise UserError(f"{where}: this {own_config.model_type} encoder has {last} layers; lower it to {last} or less")
    if count and layers and last not in layers:
        raise UserError(
            f"{where}: its top layers would learn nothing, as model.connector.layers={list(layers)} does not read layer {last}; "
            f"add {last}, or set num_trainable_layers=0"
        )


def load_encoder(
    settings: EncoderSettings, attention: str, dtype: torch.dtype, connector: ConnectorSettings | None = None
) -> StackEncoder:
    """The encoder alone, frozen, partitioned at load under ZeRO-3; it gives what the `connector` reads, or its final states."""
    name, config = encoder_family(settings)
    family = FAMILIES[name]
    model_class = _model_class(name, family)
    own_config = _own_config(family, config)
    model = load_weights(
        model_class,
        settings.name,
        "model.encoder.name",
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
        dtype=dtype,
        attn_implementation=supported_attention(model_class, attention),
        key_mapping=family.key_mapping or None,
        **({"config": own_config} if family.config_path else {}),
        **family.options,
    )
    layers = layers_read(connector.layers, own_config) if connector is not None else ()
    return StackEncoder(model, hidden_size=state_size(own_config), layers=layers)


def let_top_layers_train(model: Any, num_layers: int) -> None:
    """Set the last layers of an encoder of transformers to train, and the norm that stands behind them in some families.

    Raises:
        UserError: it has fewer, or its layers stand in no list.
    """
    if not num_layers:
        return
    try:
        owner, name = layers_of(model)
    except LookupError as error:
        raise UserError(
            f"model.encoder.num_trainable_layers={num_layers}: of this {model.config.model_type} encoder {error}; set it to 0"
        ) from error
    layers = list(owner.get_submodule(name).children())
    # Beside the list of layers stands no norm but the final one: that of the embeddings lies within them.
    norms = [part for other, part in owner.named_children() if "norm" in other]
    for part in (*layers[-num_layers:], *norms):
        part.requires_grad_(True)


def _own_config(family: EncoderFamily, config: PretrainedConfig) -> Any:
    """The encoder's part of a whole model's configuration."""
    return reduce(getattr, family.config_path, config)


def _model_class(name: str, family: EncoderFamily) -> Any:
    if family.model_class == "AutoModel":
        return AutoModel
    module = name.replace("-", "_")
    return getattr(importlib.import_module(f"transformers.models.{module}.modeling_{module}"), family.model_class)
