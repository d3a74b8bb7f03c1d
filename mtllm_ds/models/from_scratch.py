"""Language models that are not trained yet: architecture from settings, vocabulary from a tokenizer, weights from a seed."""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.data.text.tokenization import TextTokenizer, TokenizerSpec, load_text_tokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.models.quiet import quiet_transformers
from mtllm_ds.models.weightless import empty_model, is_weightless

_DEPTH = "num_hidden_layers"
_TOKEN_ID = "_token_id"


def scratch_config(settings: LLMSettings, own: PretrainedConfig | None) -> PretrainedConfig:
    """Configuration of an LLM from scratch; `own` is what its name holds, if it holds one.

    Raises:
        UserError: an architecture or setting that transformers does not know.
    """
    spec = TokenizerSpec(
        name=settings.name, revision=settings.revision, side="llm", trust_remote_code=settings.trust_remote_code
    )
    tokenizer = load_text_tokenizer(spec)
    config_class, known = _architecture(settings, own)
    default = config_class().to_dict()
    for name in settings.config:
        if name not in default and name not in config_class.attribute_map:
            nearest = difflib.get_close_matches(name, default, n=1, cutoff=0.0)[0]
            raise UserError(
                f"model.llm.config.{name}: a {config_class.model_type} model has no such setting; nearest: {nearest}"
            )
    known = _without_layers(known, settings.config)
    values = {**known, **_ids(tokenizer, config_class, known), **settings.config}
    if values["vocab_size"] < tokenizer.vocab_size:
        raise UserError(
            f"model.llm.config.vocab_size={values['vocab_size']}: the tokenizer has {tokenizer.vocab_size} pieces; remove it"
        )
    for name, token_id in settings.config.items():
        if name.endswith(_TOKEN_ID) and isinstance(token_id, int) and not 0 <= token_id < values["vocab_size"]:
            raise UserError(
                f"model.llm.config.{name}={token_id}: the vocabulary has {values['vocab_size']} ids; remove it, and the "
                "tokenizer's own is taken"
            )
    try:
        return config_class.from_dict(values)
    except Exception as error:
        raise UserError(
            f"model.llm.config: no {config_class.model_type} model is like that ({_line(error)}); change it"
        ) from error


def draw_weights(
    model_class: type[PreTrainedModel], config: PretrainedConfig, seed: int, dtype: torch.dtype, *, attn_implementation: str,
    **options: Any,
) -> PreTrainedModel:  # fmt: skip
    """A frozen model with weights drawn from `seed` alone: whole, and the same, on every rank."""
    if is_weightless():
        return empty_model(model_class, config, dtype=dtype, attn_implementation=attn_implementation, **options)
    config = copy.deepcopy(config)
    config._attn_implementation = attn_implementation
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(seed)
        try:
            # The constructor, as `from_config` would partition it under ZeRO-3.
            model: Any = model_class(config, **options)
            return model.to(dtype).requires_grad_(False)
        except (ValueError, TypeError, RuntimeError, KeyError) as error:
            raise UserError(
                f"model.llm.config: no {config.model_type} model is like that ({_line(error)}); change it"
            ) from error


def architecture_fingerprint(config: PretrainedConfig) -> str:
    """What identifies the base of a model from scratch: all its weights are in the checkpoint, its shape is not."""
    values = {name: value for name, value in config.to_dict().items() if name != "transformers_version"}
    return f"scratch:{hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()}"


def _architecture(settings: LLMSettings, own: PretrainedConfig | None) -> tuple[type[PretrainedConfig], dict[str, Any]]:
    """The class of the configuration, and what the named model's own says where it is of that class."""
    asked = settings.config.get("model_type", own.model_type if own is not None else None)
    if asked is None:
        raise UserError(
            f"model.llm.from_scratch=true: {settings.name} holds a tokenizer alone; say the architecture in "
            "model.llm.config.model_type, such as bert or modernbert"
        )
    if own is not None and own.model_type == asked:
        return type(own), own.to_dict()
    try:
        return type(AutoConfig.for_model(asked)), {}
    except ValueError as error:
        raise UserError(
            f"model.llm.config.model_type={asked}: transformers knows no such architecture; take one such as bert or modernbert"
        ) from error


def _without_layers(known: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """What is known, but for what is said layer by layer of another depth."""
    depth = known.get(_DEPTH)
    if asked.get(_DEPTH, depth) == depth:
        return known
    return {name: value for name, value in known.items() if not (isinstance(value, list) and len(value) == depth)}


def _ids(tokenizer: TextTokenizer, config_class: type[PretrainedConfig], known: Iterable[str]) -> dict[str, int | None]:
    """What of a configuration follows from the tokenizer. A special token that it lacks is none, or padding where there must be
    one: the architecture's default would be another piece of this vocabulary, or lie beyond it."""
    types = {field.name: str(field.type) for field in fields(config_class)}
    found: dict[str, int | None] = {"vocab_size": tokenizer.vocab_size}
    for name in {*types, *known}:
        if name.endswith(_TOKEN_ID):
            own, may_be_none = getattr(tokenizer.pretrained, name, None), "None" in types.get(name, "None")
            found[name] = own if own is not None or may_be_none else tokenizer.pad_id
    return found


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
