"""What an objective asks of its teacher, whoever that is. A teacher never trains and holds no parameters of its own.

Shapes: B samples, S_l LLM tokens, C choices, D the width of the teacher's states.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from mtllm_ds.data.stream.collate import Batch

Said = TypeVar("Said")


class TopTokens(NamedTuple):
    """The k likeliest next tokens of N places; what they leave of 1 is the probability of all others together."""

    ids: torch.Tensor
    """(N, k) int64"""
    log_probs: torch.Tensor
    """(N, k) float32"""


class Teacher(ABC):
    """Gives targets of a batch, without gradients."""

    @abstractmethod
    def vectors(self, batch: Batch) -> torch.Tensor:
        """A vector of each sample: (B, D) float32; of each choice of a multiple choice: (B, C, D)."""

    def states(self, batch: Batch) -> torch.Tensor:
        """Final states at the places of `llm_ids`: (B, S_l, D); `NotImplementedError` from a teacher that has none."""
        raise NotImplementedError(f"{type(self).__name__} has no states of tokens")

    def next_tokens(self, batch: Batch, owners: torch.Tensor, within: torch.Tensor) -> TopTokens:
        """The likeliest tokens in place of each token of the responses; `NotImplementedError` from a teacher that tells none.

        Args:
            owners, within: (N,) int64 sample of each token, and its number in the response
        """
        raise NotImplementedError(f"{type(self).__name__} tells no next tokens")

    def vectors_beside(self, batch: Batch, student: Callable[[], Said]) -> tuple[torch.Tensor, Said]:
        """`vectors`, and what `student()` gives: asked for together, as a teacher may be the same model and go through it once."""
        return self.vectors(batch), student()

    def states_beside(self, batch: Batch, student: Callable[[], Said]) -> tuple[torch.Tensor, Said]:
        """`states`, and what `student()` gives."""
        return self.states(batch), student()
