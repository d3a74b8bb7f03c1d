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
from mtllm_ds.config.sections import EncoderSettings
from mtllm_ds.errors import UserError
from mtllm_ds.models import whole_masks
from mtllm_ds.models.loading import load_config, load_weights, supported_attention
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


class FrozenEncoder(nn.Module):
    """An encoder that never trains: always in evaluation mode, called without gradients."""

    def __init__(self, model: nn.Module, hidden_size: int) -> None:
        super().__init__()
        self.model = model.eval()
        self.hidden_size = hidden_size

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stay in evaluation mode: dropout and layerdrop would change the states (and desynchronise ranks)."""
        return super().train(False)

    def stand_apart(self, device: torch.device) -> None:
        """Leave the tree of modules, buffers on `device`, so that an engine does not see it; its weights must be whole."""
        buffers_to(self.model, device)
        self.__dict__["model"] = self._modules.pop("model")

    @torch.no_grad()
    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """Final hidden states: (B, S) int64 ids and mask -> (B, S, hidden_size). Of lists a list, for which ZeRO-3 gathers an
        encoder in shares but once."""
        with in_part("encoder"):
            if isinstance(input_ids, torch.Tensor):
                return self._states(input_ids, attention_mask)
            return [self._states(ids, mask) for ids, mask in zip(input_ids, attention_mask, strict=True)]

    def _states(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        note_padded(self.model, attention_mask)
        whole = whole_masks.attention_mask(self.model, attention_mask, causal=False)
        states: torch.Tensor = self.model(input_ids=input_ids, attention_mask=whole).last_hidden_state
        return states


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


def load_encoder(settings: EncoderSettings, attention: str, dtype: torch.dtype) -> FrozenEncoder:
    """The frozen encoder alone, partitioned at load under ZeRO-3."""
    name, config = encoder_family(settings)
    family = FAMILIES[name]
    model_class = _model_class(name, family)
    own_config: Any = reduce(getattr, family.config_path, config)
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
    return FrozenEncoder(model, hidden_size=state_size(own_config))


def _model_class(name: str, family: EncoderFamily) -> Any:
    if family.model_class == "AutoModel":
        return AutoModel
    module = name.replace("-", "_")
    return getattr(importlib.import_module(f"transformers.models.{module}.modeling_{module}"), family.model_class)
