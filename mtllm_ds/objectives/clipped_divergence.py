"""Divergences whose every vocabulary entry counts at most so much: a few tokens of style cannot outweigh all others.

    loss = sum over v of min(d_v, clip)

with d_v the entry's share of the divergence, such as p_t (log p_t - log p_s) of the forward KL. Entries above the clip pass no
gradient. Source: public code of crosslingual on-policy self-distillation, clip 0.05. Plain eager operators, a few rows at a time.
"""

from __future__ import annotations

import math

import torch


def clipped_rows(
    student: torch.Tensor, teacher: torch.Tensor, *, divergence: str, beta: float, temperature: float, clip: float
) -> torch.Tensor:
    """(N, V) float32 logits of both sides -> (N,), times the temperature squared; differentiable in the student's."""
    log_s, log_t = (student / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1)
    if divergence == "forward_kl":
        entries = log_t.exp() * (log_t - log_s)
    elif divergence == "reverse_kl":
        entries = log_s.exp() * (log_s - log_t)
    else:
        log_m = torch.logaddexp(log_t + math.log(beta), log_s + math.log1p(-beta))
        entries = beta * log_t.exp() * (log_t - log_m) + (1 - beta) * log_s.exp() * (log_s - log_m)
    return entries.clamp(max=clip).sum(-1) * temperature**2
