"""Attention masks of padded rows, whole, so that nothing has to be asked of the device.

Given a mask per token, transformers looks on the host whether it holds any padding, to leave it out where it does not: the host
then waits for the device at every forward. A mask (B, 1, S, S) is taken as it is.
"""

from __future__ import annotations

from typing import Any

import torch

TESTED = frozenset(
    ("bert", "gemma", "gemma3_text", "llama", "m2m_100", "mistral", "qwen2", "qwen3", "roberta", "xlm-roberta")
)
"""Families whose states are the same under either mask (`tests/models/test_whole_masks.py`); others get the mask per token."""


def attention_mask(model: Any, mask: torch.Tensor, *, causal: bool) -> torch.Tensor:
    """What to give a transformers model for the tokens of (B, S) int64: (B, 1, S, S) bool where it takes that, else as it is."""
    config = getattr(model, "config", None)
    window = getattr(config, "sliding_window", None)
    fits = window is None or mask.shape[1] <= window
    if getattr(config, "is_decoder", False):  # transformers then makes a causal mask of it
        return mask
    if config is None or config._attn_implementation != "sdpa" or config.model_type not in TESTED or not fits:
        return mask
    batch, width = mask.shape
    whole = mask.bool()[:, None, None, :].expand(batch, 1, width, width)
    return whole & torch.ones(width, width, dtype=torch.bool, device=mask.device).tril() if causal else whole


def is_causal(model: Any) -> bool:
    """Which way an LLM was set to look (`direction.py`)."""
    return bool(getattr(model.config, "is_causal", True))
