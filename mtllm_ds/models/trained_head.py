"""The output head of a language model that trains with its head."""

from __future__ import annotations

from typing import Any

import torch

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.models.base_dropout import switch_off_dropout
from mtllm_ds.models.from_scratch import draw_weights
from mtllm_ds.models.head_parts import HeadParts, head_class, parts_of, read_head
from mtllm_ds.models.head_probe import probe_head
from mtllm_ds.models.lm_head import OutputHead
from mtllm_ds.models.loading import llm_config
from mtllm_ds.models.readers import Reader


def load_trained_head(settings: LLMSettings, reader: Reader, dtype: torch.dtype, *, seed: int) -> OutputHead:
    """The head of the LLM that a reader runs, read or, from scratch, drawn from `seed`. All of it trains, but a matrix that
    is tied to the input embeddings *is* their parameter and trains where they do.

    Raises:
        UserError: the checkpoint holds no head, or the family's does something that is not known here.
    """
    config = llm_config(settings)
    does = probe_head(settings, config)
    parts = _drawn(settings, config, dtype, seed) if settings.from_scratch else read_head(settings, config, dtype)
    tied = reader.trained_model.get_input_embeddings().weight
    weight = tied if parts.weight is None else parts.weight
    head = OutputHead(weight, parts.bias, transform=parts.transform, scale=does.scale, softcap=does.softcap)
    for parameter in head.parameters():
        if parameter is not tied:
            parameter.requires_grad_(True)
    return head.eval()


def _drawn(settings: LLMSettings, config: Any, dtype: torch.dtype, seed: int) -> HeadParts:
    model: Any = draw_weights(head_class(settings, config), config, seed, dtype, attn_implementation="eager")
    switch_off_dropout(model)
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    parts = parts_of(model)
    return HeadParts(parts.transform, None, parts.bias) if is_tied else parts
