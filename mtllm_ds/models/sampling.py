"""Sampling that keeps no state: a token is a pure function of its logits and of (seed of the row, position).

    token = argmax( warped(logits) - log(-log u) ),   u uniform in (0, 1), one of each (seed, position, token)

The Gumbel-max trick draws from softmax(warped(logits)) exactly. As u comes from a hash of integers and not from a generator, what a
row says depends neither on the batch it stands in, nor on what was drawn before, nor on the number of ranks.

Source: Gumbel, 1954; Maddison et al., "A* Sampling", NeurIPS 2014, arXiv 1411.0030. SplitMix64 mixes the integers (`draws.py`).
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


def _signed(number: int) -> int:
    """The int64 with the bits of an unsigned number."""
    return number - (1 << 64) if number >> 63 else number


_GOLDEN, _FIRST, _SECOND = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
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
    streams = _mixed(seeds + _mixed(torch.full_like(seeds, position)))
    counters = torch.arange(1, vocab_size + 1, device=seeds.device) * _GOLDEN
    bits = _mixed(streams[:, None] + counters)
    # Of w = 1 - u, not of u: the largest noise comes from the smallest w, where float32 is exact.
    w = (((bits >> 32) & 0xFFFFFFFF).float() + 0.5) * 2.0**-32
    return -torch.log(-torch.log1p(-w.clamp(max=_BELOW_ONE)))


def _mixed(numbers: torch.Tensor) -> torch.Tensor:
    """SplitMix64 of int64, bit for bit: products wrap around, shifts are made logical."""
    mixed = numbers + _GOLDEN
    mixed = (mixed ^ _shifted(mixed, 30)) * _FIRST
    mixed = (mixed ^ _shifted(mixed, 27)) * _SECOND
    return mixed ^ _shifted(mixed, 31)


def _shifted(numbers: torch.Tensor, places: int) -> torch.Tensor:
    return (numbers >> places) & ((1 << (64 - places)) - 1)
