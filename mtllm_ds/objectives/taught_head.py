"""The owner of a trained output head's matrix: divergence from a teacher with another head, and cross-entropy on the text.

Under ZeRO-3 a matrix is whole only inside the forward of a module that owns it, so all groups of rows (one per teacher) are taken
in one forward: a rank gathers its head once however many languages it happens to hold.

Shapes: N rows of states, D wide (the student's) or D_t (a teacher's); V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from mtllm_kernels import fused_linear_kl
from torch import nn
from torch.nn import functional

from mtllm_ds.models.lm_head import OutputHead, capped

_NO_TEACHER_WIDTH = 16
"""Of states that stand for a teacher's where there is none: next to no work, and aligned as kernels like it."""


@dataclass(frozen=True)
class Lesson:
    """What a teacher says of some rows: its matrix, its bias, and what it read."""

    states: torch.Tensor
    """(n, D_t) prepared for the matrix"""
    weight: torch.Tensor
    """(V, D_t)"""
    bias: torch.Tensor | None
    """(V,)"""


class Group(NamedTuple):
    """Rows that one teacher teaches, or that none does."""

    rows: slice
    lesson: Lesson | None


class Told(NamedTuple):
    """Losses of groups and, where they were asked for, figures of rows."""

    loss_sum: torch.Tensor
    """Scalar with its graph"""
    losses: list[torch.Tensor]
    """Each group's part of it, detached"""
    figures: torch.Tensor | None
    """(N, 4) float64 of `FIGURES`; 0 for what there is no teacher for"""


FIGURES = ("nll", "right", "kl", "teacher_nll")


class TaughtHead(nn.Module):
    """(1 - label_weight) T^2 KL(teacher || student) + label_weight * cross-entropy, summed over rows.

    Rows without a teacher have their cross-entropy alone.
    """

    def __init__(
        self, head: OutputHead, *, label_weight: float, temperature: float = 1.0, backend: str = "auto",
        chunk_elements: int = 2**24,
    ) -> None:  # fmt: skip
        super().__init__()
        self.weight, self.bias = head.weight, head.bias
        self.softcap, self.label_weight, self.temperature = head.softcap, label_weight, temperature
        self.backend, self.chunk_elements = backend, chunk_elements

    def forward(
        self,
        states: torch.Tensor,
        wanted: torch.Tensor,
        valid: torch.Tensor | None,
        groups: Sequence[Group],
        figures: bool,
    ) -> Told:
        """
        Args:
            states: (N, D) what the matrix reads (`OutputHead.prepared`)
            wanted: (N,) int64 tokens of the text
            valid: (N,) bool rows that count; None for all
            groups: their rows, together all N
            figures: whether to take `FIGURES` too
        """
        losses = [self._loss(states, wanted, valid, group) for group in groups]
        told = self._figures(states, wanted, groups) if figures else None
        return Told(torch.stack(losses).sum(), [loss.detach() for loss in losses], told)

    def _loss(
        self, states: torch.Tensor, wanted: torch.Tensor, valid: torch.Tensor | None, group: Group
    ) -> torch.Tensor:
        rows = group.rows
        own, lesson = states[rows], group.lesson
        label_weight = self.label_weight if lesson is not None else 1.0
        if lesson is None:
            lesson = _no_lesson(own, self.weight)
        return fused_linear_kl(
            own,
            self.weight,
            lesson.states,
            lesson.weight,
            temperature=self.temperature,
            scale_by_temperature=True,
            valid=None if valid is None else valid[rows],
            labels=wanted[rows] if label_weight else None,
            label_weight=label_weight,
            student_bias=self.bias,
            teacher_bias=lesson.bias,
            softcap=self.softcap,
            reduction="sum",
            backend=self.backend,
        )

    @torch.no_grad()
    def _figures(self, states: torch.Tensor, wanted: torch.Tensor, groups: Sequence[Group]) -> torch.Tensor:
        """Logits in full, a few rows at a time."""
        parts = [torch.stack(part, 1) for group in groups for part in self._figures_of(states, wanted, group)]
        return torch.cat(parts)

    def _figures_of(self, states: torch.Tensor, wanted: torch.Tensor, group: Group) -> Iterator[list[torch.Tensor]]:
        for start in range(group.rows.start, group.rows.stop, step := max(1, self.chunk_elements // len(self.weight))):
            rows = slice(start, min(start + step, group.rows.stop))
            logits = self._logits(states[rows], self.weight, self.bias)
            nll = functional.cross_entropy(logits, wanted[rows], reduction="none")
            right = (logits.argmax(-1) == wanted[rows]).to(nll.dtype)
            kl = teacher_nll = torch.zeros_like(nll)
            if group.lesson is not None:
                lesson, inside = group.lesson, slice(start - group.rows.start, rows.stop - group.rows.start)
                taught = self._logits(lesson.states[inside], lesson.weight, lesson.bias)
                teacher_nll = functional.cross_entropy(taught, wanted[rows], reduction="none")
                log_p, log_q = ((side / self.temperature).log_softmax(-1) for side in (logits, taught))
                kl = functional.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
            yield [value.double() for value in (nll, right, kl, teacher_nll)]

    def _logits(self, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        logits = functional.linear(states, weight, bias)
        return capped(logits if logits.dtype == torch.float64 else logits.float(), self.softcap)


def _no_lesson(states: torch.Tensor, weight: torch.Tensor) -> Lesson:
    """Stands where the divergence counts nothing."""
    return Lesson(
        states.new_zeros(len(states), _NO_TEACHER_WIDTH), weight.new_zeros(len(weight), _NO_TEACHER_WIDTH), None
    )
