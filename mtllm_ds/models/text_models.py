"""The text model of an LLM: its class and configuration, also where it is a part of a multimodal model, and which way it looks."""

from __future__ import annotations

import inspect
from typing import Any

from transformers import MODEL_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.errors import UserError
from mtllm_ds.models.probe import Probe, probe


def text_model(model: PreTrainedModel, text_class: type[PreTrainedModel]) -> PreTrainedModel:
    """The part of a model that reads text: itself, or of a multimodal model the part of that class."""
    return next((part for part in model.modules() if isinstance(part, text_class)), model)


def embedding_size(model: Any) -> int:
    """Width of the input embeddings, which is that of `inputs_embeds`; whole also where weights are partitioned."""
    return int(model.get_input_embeddings().embedding_dim)


def state_size(config: PretrainedConfig) -> int:
    """Width of the final states."""
    # OPT-350M projects its states back to the width of its embeddings; MPT knows no `hidden_size`.
    names = ("word_embed_proj_dim", "hidden_size", "d_model")
    return int(next(found for name in names if (found := getattr(config, name, None))))


def probe_llm(settings: LLMSettings, config: PretrainedConfig) -> Probe:
    """What the LLM does, in the direction that the settings ask for.

    Raises:
        UserError: it is an encoder-decoder, `model.llm.bidirectional` is untrue of it, or padding changes its states.
    """
    if config.is_encoder_decoder:
        raise UserError(
            f"model.llm.name={settings.name}: {config.model_type} is an encoder-decoder; name a decoder or encoder"
        )
    text = config.get_text_config()
    model_class = text_model_class(text, settings)
    found = probe(model_class, text, settings.bidirectional)
    as_it_is = probe(model_class, text, False)
    where = f"model.llm.bidirectional={str(settings.bidirectional).lower()}: {settings.name}"
    if not settings.bidirectional and as_it_is.both_ways:
        raise UserError(f"{where} is a {text.model_type} model, always bidirectional; set it to true")
    mend = "set model.llm.bidirectional=false, or name another model"
    if settings.bidirectional and found.failure and not as_it_is.failure:
        raise UserError(f"{where} is a {text.model_type} model that cannot look both ways ({found.failure}); {mend}")
    if settings.bidirectional and not found.failure and not found.both_ways:
        parts = f" its {' and '.join(found.one_way)} look back only" if found.one_way else " its masks are causal"
        raise UserError(f"{where} is a {text.model_type} model that cannot look both ways,{parts}; {mend}")
    if not found.failure and not found.ignores_padding:
        raise UserError(
            f"model.llm.name={settings.name}: padding changes the states of this {text.model_type} model; name another"
        )
    return found


def looks_both_ways(settings: LLMSettings, config: PretrainedConfig) -> bool:
    """Whether the model looks both ways as it is: an encoder, or an LLM that was adapted to it."""
    text = config.get_text_config()
    return probe(text_model_class(text, settings), text, False).both_ways


def text_model_class(config: PretrainedConfig, settings: LLMSettings) -> type[PreTrainedModel]:
    """The class that holds a text model of this configuration without a head."""
    own = getattr(config, "auto_map", None) or {}
    if settings.trust_remote_code and "AutoModel" in own:
        own_class: Any = get_class_from_dynamic_module(own["AutoModel"], settings.name, revision=settings.revision)
        return own_class
    if type(config) not in MODEL_MAPPING:
        raise UserError(
            f"model.llm.name={settings.name}: a {config.model_type} model has no text model to load; name another model"
        )
    found: Any = MODEL_MAPPING[type(config)]
    return found[0] if isinstance(found, tuple) else found


def without_pooler(model_class: type[PreTrainedModel]) -> dict[str, Any]:
    """Constructor option of encoders that would add a pooler, which checkpoints often lack and nothing here uses."""
    named = inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in named else {}
