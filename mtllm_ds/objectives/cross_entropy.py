"""Cross-entropy of tokens through a frozen head, a few rows at a time: the logits of all would be the largest tensor of a step.

Shapes: N rows, V vocabulary entries, D width of the states.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from mtllm_ds.models.lm_head import capped

NO_LABEL = -100
"""No token is wanted of a row."""


class ToldRows(NamedTuple):
    """What a head makes of rows, as plain numbers."""

    losses: torch.Tensor
    """(N,) float32 in nats, 0 where no token is wanted"""
    right: torch.Tensor
    """(N,) bool, whether the likeliest token is the one that is wanted"""
    gradient: torch.Tensor | None
    """(N, D) of the sum of the losses, where it was asked for"""


@torch.no_grad()
def tell_rows(
    states: torch.Tensor,
    wanted: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    softcap: float | None,
    *,
    gradient: bool,
    chunk_elements: int = 2**25,
) -> ToldRows:
    """(N, D) prepared states and (N,) int64 tokens, -100 where there is none, through a head (V, D) -> what it makes of them."""
    rows = max(1, chunk_elements // weight.shape[0])
    parts = []
    for part, tokens in zip(states.split(rows), wanted.split(rows), strict=True):
        logits = capped(functional.linear(part, weight, bias).float(), softcap)
        losses = functional.cross_entropy(logits, tokens, reduction="none", ignore_index=NO_LABEL)
        right = logits.argmax(-1) == tokens
        slope = logits.softmax(-1) if gradient else None
        if slope is not None:
            slope[torch.arange(len(tokens), device=tokens.device), tokens.clamp(min=0)] -= 1.0
            slope *= (tokens != NO_LABEL).unsqueeze(-1)
            if softcap is not None:
                slope *= 1.0 - (logits / softcap).square()
            slope = slope.to(part.dtype) @ weight
        parts.append((losses, right, slope))
    all_losses, all_right, slopes = zip(*parts, strict=True)
    return ToldRows(torch.cat(all_losses), torch.cat(all_right), torch.cat(slopes) if gradient else None)
