"""Sampling that keeps no state: a token is a pure function of its logits and of (seed of the row, position).

    token = argmax( warped(logits) - log(-log u) ),   u uniform in (0, 1), one of each (seed, position, token)

The Gumbel-max trick draws from softmax(warped(logits)) exactly. As u comes from a hash of integers and not from a generator, what a
row says depends neither on the batch it stands in, nor on what was drawn before, nor on the number of ranks.

Source: Gumbel, 1954; Maddison et al., "A* Sampling", NeurIPS 2014, arXiv 1411.0030. The hash is that of `tensor_draws.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mtllm_ds.tensor_draws import seeds_of

_BELOW_ONE = 1.0 - 2.0**-24


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What becomes of logits before a token is drawn from them, in this order."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    NAMES: ClassVar = ("temperature", "top_k", "top_p", "min_p")

    def warpers(self) -> list[LogitsProcessor]:
        """Those of transformers; `ValueError` for a number that one of them refuses."""
        found: list[LogitsProcessor] = []
        if self.temperature != 1.0:
            found.append(TemperatureLogitsWarper(float(self.temperature)))
        if self.top_k:
            found.append(TopKLogitsWarper(self.top_k))
        if self.top_p is not None and self.top_p != 1.0:
            found.append(TopPLogitsWarper(self.top_p))
        if self.min_p is not None:
            found.append(MinPLogitsWarper(self.min_p))
        return found


class Sampler(LogitsProcessor):
    """Makes greedy decoding draw: adds noise to the warped logits, so that the largest is the token drawn."""

    def __init__(self, sampling: Sampling, seeds: torch.Tensor) -> None:
        """`seeds`: (B,) int64, one of each row."""
        self._warpers = sampling.warpers()
        self._seeds = seeds

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(B, n) tokens written so far, (B, V) float32 logits of the next -> (B, V)."""
        for warp in self._warpers:
            scores = warp(input_ids, scores)
        return scores + gumbel_noise(self._seeds, input_ids.shape[1], scores.shape[1])


def gumbel_noise(seeds: torch.Tensor, position: int, vocab_size: int) -> torch.Tensor:
    """Standard Gumbel noise of each row's next token: (B,) int64 seeds -> (B, vocab_size) float32, on the device of the seeds."""
    tokens = torch.arange(vocab_size, device=seeds.device)
    bits = seeds_of(seeds[:, None], position, tokens, device=seeds.device) >> 31
    # Of w = 1 - u, not of u: the largest noise comes from the smallest w, where float32 is exact.
    w = (bits.float() + 0.5) * 2.0**-32
    return -torch.log(-torch.log1p(-w.clamp(max=_BELOW_ONE)))
