"""How many tokens a text model has positions for, measured: tables of positions have other names and offsets in every family.

The model's own class is built at toy size with few positions, and reads ever shorter texts until one fits.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PretrainedConfig

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.models.probe import small_model
from mtllm_ds.models.quiet import quiet_transformers
from mtllm_ds.models.text_models import text_model_class

_POSITIONS, _BEYOND = 16, 8
_IDS = (5, 6, 7, 8)


def num_positions(llm: LLMSettings, config: PretrainedConfig) -> int | None:
    """Most tokens of one text; None where positions have no end (rotary, relative), or nothing could be measured."""
    text = config.get_text_config()
    named = getattr(text, "max_position_embeddings", None)
    if not isinstance(named, int):
        return None
    few = copy.deepcopy(text)
    few.max_position_embeddings = _POSITIONS
    with torch.random.fork_rng(devices=[]), torch.no_grad(), quiet_transformers():
        try:
            model = small_model(text_model_class(text, llm), few, False)
        except Exception:  # a family that cannot be made small: the probe of its direction tells of it
            return None
        if _reads(model, _POSITIONS + _BEYOND) or not _reads(model, 1):
            return None
        # RoBERTa and its kin begin to count behind the padding's place.
        lost = next(number for number in range(-_BEYOND, _POSITIONS) if _reads(model, _POSITIONS - number))
    return named - lost


def _reads(model: Any, num_tokens: int) -> bool:
    ids = torch.tensor([(_IDS * num_tokens)[:num_tokens]])
    try:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (IndexError, RuntimeError, ValueError):
        return False
    return True
