"""What given responses are worth behind prompts: their cross-entropy, and the divergence from a teacher that read something else.

Shapes: N responses of n tokens each, D the width of the LLM's states, V its vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from mtllm_ds.errors import UserError

Prompts = Sequence[Any]
"""As their reader reads them"""
Ids = Sequence[Sequence[int]]


class ReadsOn(Protocol):
    """A model that reads responses behind prompts, such as `mtllm_ds.models.speaker.Speaker`."""

    def states_before(self, prompts: Prompts, responses: Ids, batch_size: int = 8) -> list[torch.Tensor]:
        """(n, D) states that tell each response's tokens."""

    def log_probs(self, states: torch.Tensor) -> torch.Tensor:
        """(n, D) -> (n, V) float32"""


@dataclass(frozen=True)
class Readings:
    """Sums over the tokens of each response, in nats."""

    num_tokens: np.ndarray
    """(N,) int64"""
    nll: np.ndarray
    """(N,) float64"""
    kl: np.ndarray
    """(N,) float64 KL(teacher || reader)"""


def readings(
    reader: ReadsOn, told: Sequence[torch.Tensor], responses: Ids, teacher: ReadsOn, known: Sequence[torch.Tensor]
) -> Readings:
    """What responses are worth to a reader of prompts.

    Args:
        told: (n, D) of each response, the reader's states before its tokens
        known: (n, D) of each response, the states of the teacher, which may have another head but has the same vocabulary

    Raises:
        UserError: the vocabularies differ.
    """
    nll, kl = [], []
    for own, other, response in zip(told, known, responses, strict=True):
        log_probs, truth = reader.log_probs(own), teacher.log_probs(other)
        if log_probs.shape != truth.shape:
            raise UserError(
                f"model: has a vocabulary of {log_probs.shape[-1]}, the untouched LLM of {truth.shape[-1]}; name the LLM that it "
                "was trained from"
            )
        nll.append(_cross_entropy(log_probs, response))
        kl.append((truth.exp() * (truth - log_probs)).double().sum().item())
    return Readings(np.array([len(response) for response in responses]), np.array(nll), np.array(kl))


def cross_entropies(reader: ReadsOn, prompts: Prompts, responses: Ids, batch_size: int) -> np.ndarray:
    """(N,) float64 sums over the tokens of each response, in nats: what it is worth where no teacher is asked."""
    told = reader.states_before(prompts, responses, batch_size)
    found = [_cross_entropy(reader.log_probs(own), response) for own, response in zip(told, responses, strict=True)]
    return np.array(found)


def _cross_entropy(log_probs: torch.Tensor, response: Sequence[int]) -> float:
    tokens = torch.tensor(response, dtype=torch.long, device=log_probs.device)
    return -log_probs.gather(1, tokens[:, None]).double().sum().item()


@dataclass(frozen=True)
class Estimate:
    """Nats per token, with the bootstrap's quantiles."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def estimate(
    sums: np.ndarray, num_tokens: np.ndarray, groups: Sequence[str], num_resamples: int = 2_000, level: float = 0.05
) -> Estimate:
    """Sums over tokens as nats per token; groups of related prompts are drawn with replacement.

    Args:
        sums, num_tokens: (N,) of each prompt; a difference of two readers' sums gives that of their means
        level: left outside of the interval, half on either side
    """
    names = {name: place for place, name in enumerate(dict.fromkeys(groups))}
    place = np.array([names[name] for name in groups])
    by_group = np.bincount(place, weights=sums)
    tokens = np.bincount(place, weights=num_tokens)
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), num_resamples)
    means = (drawn @ by_group) / (drawn @ tokens)
    low, high = np.quantile(means, [level / 2, 1 - level / 2])
    return Estimate(float(sums.sum() / num_tokens.sum()), float(low), float(high))
