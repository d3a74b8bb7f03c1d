"""The language-model head of an LLM that was loaded without it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from transformers.utils import cached_file

from mtllm_ds.cluster.zero import gathered
from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.errors import UserError
from mtllm_ds.models.loading import load_config
from mtllm_ds.models.readers import LLMReader
from mtllm_ds.models.text_models import looks_both_ways

_KEY = "lm_head.weight"


def load_lm_head(settings: LLMSettings, reader: LLMReader, dtype: torch.dtype) -> nn.Linear:
    """A frozen Linear (D -> vocabulary): a copy of the reader's input embeddings where the LLM ties them, else the stored head.

    Raises:
        UserError: the checkpoint holds no head.
    """
    config = load_config(settings.name, settings.revision, settings.trust_remote_code, "model.llm.name")
    if getattr(config, "is_causal", True) is not False and looks_both_ways(settings, config):
        raise UserError(
            f"model.llm.name={settings.name}: a {config.model_type} encoder, which looks both ways already; use it as it is"
        )
    if config.tie_word_embeddings:
        table = reader.trained_model.get_input_embeddings().weight
        with gathered([table]):
            weight = table.detach().clone()
    else:
        weight = _stored_head(settings)
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=dtype)
    head.weight.data.copy_(weight)
    return head.requires_grad_(False)


def _stored_head(settings: LLMSettings) -> torch.Tensor:
    def place(file: str) -> str | None:
        return cached_file(settings.name, file, revision=settings.revision, _raise_exceptions_for_missing_entries=False)

    index = place("model.safetensors.index.json")
    shards = {} if index is None else json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
    file = place(shards.get(_KEY, "model.safetensors"))
    if file is not None:
        with safe_open(file, "pt") as tensors:
            if _KEY in tensors.keys():  # noqa: SIM118 - no mapping
                return tensors.get_tensor(_KEY)
    raise UserError(
        f"model.llm.name={settings.name}: its weights hold no language-model head ({_KEY}), which "
        "objective.name=masked_next_token needs; name the causal language model itself"
    )
