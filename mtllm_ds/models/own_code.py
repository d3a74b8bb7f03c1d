"""Language models whose code comes with them: run as they are, from ids to logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PretrainedConfig

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.models.loading import load_weights
from mtllm_ds.observe.flops import note_padded


class OwnCodeModel(nn.Module):
    """A frozen language model that nothing is known of but what it answers."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.eval()

    @torch.no_grad()
    def logits(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, S) int64 ids and mask -> (B, S, V)."""
        note_padded(self.model, mask)
        return self.model(input_ids=ids, attention_mask=mask).logits


def has_own_code(llm: LLMSettings, config: PretrainedConfig) -> bool:
    """Whether the model's head is code that comes with it, and is trusted."""
    return llm.trust_remote_code and _auto_class(llm).__name__ in (getattr(config, "auto_map", None) or {})


def load_own_code(llm: LLMSettings, dtype: torch.dtype) -> OwnCodeModel:
    """The model with its head; `UserError` where it cannot be loaded."""
    model = load_weights(
        _auto_class(llm), llm.name, "model.llm.name", revision=llm.revision, trust_remote_code=True, dtype=dtype
    )
    return OwnCodeModel(model)


def _auto_class(llm: LLMSettings) -> Any:
    return AutoModelForMaskedLM if llm.bidirectional else AutoModelForCausalLM
