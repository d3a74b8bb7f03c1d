"""Forward KL from a teacher that told its likeliest tokens before: of these and of all others as one, through a frozen head.

Shapes: N rows, k tokens that were kept, V vocabulary entries, D width of the states.
"""

from __future__ import annotations

import torch
from mtllm_kernels import fused_topk_kl
from mtllm_kernels.topk_kl.reference import loss_of_logits
from torch import Tensor
from torch.nn import functional

from mtllm_ds.models.lm_head import capped
from mtllm_ds.teachers.base import TopTokens


def top_token_rows(
    states: Tensor,
    known: TopTokens,
    weight: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    *,
    temperature: float,
    backend: str,
    gradient: bool,
    chunk_elements: int = 2**24,
) -> tuple[Tensor, Tensor | None]:
    """(N, D) prepared states through a head (V, D) -> (N,) float32 divergences at a temperature, and the gradient (N, D) of their
    sum, where it was asked for.

    Fused, but for heads with a bias or a soft cap: these are read a few rows at a time by plain operators.
    """
    is_plain = bias is None and softcap is None
    rows = max(1, len(states) if is_plain else chunk_elements // weight.shape[0])
    losses: list[Tensor] = []
    slopes: list[Tensor] = []
    for part, ids, log_probs in zip(
        states.split(rows), known.ids.split(rows), known.log_probs.split(rows), strict=True
    ):
        leaf = part.detach().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            if is_plain:
                loss = fused_topk_kl(
                    leaf, weight, ids, log_probs, temperature=temperature, reduction="none", backend=backend
                )
            else:
                logits = capped(functional.linear(leaf, weight, bias).float(), softcap)
                loss = loss_of_logits(logits / temperature, ids, log_probs)
        losses.append(loss.detach())
        slopes += torch.autograd.grad(loss.sum(), leaf) if gradient else []
    return torch.cat(losses), torch.cat(slopes) if gradient else None
