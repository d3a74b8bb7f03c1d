"""The task head: from vectors to class scores, or one score a choice."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from mtllm_ds.data.shards.manifest import TaskEntry
from mtllm_ds.errors import UserError


class TaskHead(nn.Linear):
    """One linear layer, computed in float32 whatever the weights' dtype."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., num_labels) float32."""
        bias = None if self.bias is None else self.bias.float()
        return functional.linear(vectors.float(), self.weight.float(), bias)


def num_scores(task: TaskEntry) -> int:
    """Outputs of a task's head: one a class; for multiple choice a single score, asked once a choice."""
    return 1 if task.type == "multiple_choice" else len(task.labels)


def new_head(hidden_size: int, task: TaskEntry, *, seed: int, dtype: torch.dtype, bias: bool = True) -> TaskHead:
    """A head with the framework's default start, drawn from `seed` alone (the same on every rank)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = TaskHead(hidden_size, num_scores(task), bias=bias)
    return head.to(dtype)


def head_from(weights: Mapping[str, torch.Tensor], hidden_size: int, where: str) -> TaskHead:
    """The frozen head of a trained model, float32; `UserError` if it reads vectors of another width."""
    num_labels, width = weights["weight"].shape
    if width != hidden_size:
        raise UserError(
            f"{where}: its head reads vectors of {width} dimensions, this model gives {hidden_size}; "
            "take a teacher on the same LLM"
        )
    head = TaskHead(width, num_labels, bias="bias" in weights)
    head.load_state_dict(dict(weights))
    return head.requires_grad_(False)


def task_scores(head: TaskHead, vectors: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    """Scores of a task's answers, float32.

    Classes: (B, D) -> (B, K). Multiple choice: (B, C, D) and `present` (B, C) bool -> (B, C), the least finite number where a
    row has no such choice.
    """
    scores = head(vectors)
    if present is None:
        return scores
    return scores.squeeze(-1).masked_fill(~present, torch.finfo(scores.dtype).min)
