"""The owner of a trained output head's matrix: divergence from a teacher with another head, and cross-entropy on the text.

Under ZeRO-3 a matrix is whole only inside the forward of a module that owns it, so all groups of rows (one per teacher) are taken
in one forward: a rank gathers its head once however many languages it happens to hold.

Shapes: N rows of states, D wide (the student's) or D_t (a teacher's); V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from mtllm_kernels import fused_linear_kl
from torch import nn
from torch.nn import functional

from mtllm_ds.models.lm_head import OutputHead, capped
from mtllm_ds.objectives.mapped_kl import Mapped, Options, bucket_kl, mapped_kl
from mtllm_ds.observe.flops import note_head
from mtllm_ds.step_parts import in_part

NO_TOKEN = -100
_NO_TEACHER_WIDTH = 16
"""Of states that stand for a teacher's where there is none: next to no work, and aligned as kernels like it."""


@dataclass(frozen=True)
class Lesson:
    """What a teacher says of some rows: its matrix, its bias, and what that reads. V_t is V unless `mapped` says how they meet."""

    states: torch.Tensor
    """(n, D_t) prepared for the matrix; without one, logits (n, V_t)"""
    weight: torch.Tensor | None
    """(V_t, D_t); None only where `mapped` is there"""
    bias: torch.Tensor | None
    """(V,)"""
    softcap: float | None = None
    mapped: Mapped | None = None
    """How its vocabulary meets the student's; None where their logits are the same one by one"""

    @property
    def size(self) -> int:
        """V_t"""
        return self.states.shape[-1] if self.weight is None else len(self.weight)


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
    """(N, 6) float64 of `FIGURES`; 0 for what there is no teacher for"""


FIGURES = ("nll", "right", "kl", "teacher_nll", "taught", "shared_nll")
"""`taught`: 1 where the teacher has the token, so that its `teacher_nll` counts; `shared_nll`: the student's of those alone"""


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
        with in_part("head"):
            losses = [self._loss(states, wanted, valid, group) for group in groups]
        told = self._figures(states, wanted, groups) if figures else None
        return Told(torch.stack(losses).sum(), [loss.detach() for loss in losses], told)

    def _loss(
        self, states: torch.Tensor, wanted: torch.Tensor, valid: torch.Tensor | None, group: Group
    ) -> torch.Tensor:
        rows = group.rows
        own, lesson = states[rows], group.lesson
        note_head(len(own), self.weight, 1 + states.requires_grad + self.weight.requires_grad)
        if lesson is not None and lesson.weight is not None:
            note_head(len(own), lesson.weight, 1)
        label_weight = self.label_weight if lesson is not None else 1.0
        if lesson is None:
            lesson = _no_lesson(own, self.weight)
        if lesson.mapped is not None:
            options = self._options(lesson)
            return mapped_kl(
                own, self.weight, self.bias, partial(self._taught, lesson), wanted[rows], lesson.mapped, options
            )
        assert lesson.weight is not None
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
        step = self._options(group.lesson).rows_at_once(len(self.weight))
        for start in range(group.rows.start, group.rows.stop, step):
            rows = slice(start, min(start + step, group.rows.stop))
            logits = _logits(states[rows], self.weight, self.bias, self.softcap)
            nll = functional.cross_entropy(logits, wanted[rows], reduction="none")
            right = (logits.argmax(-1) == wanted[rows]).to(nll.dtype)
            kl = teacher_nll = taught = torch.zeros_like(nll)
            if group.lesson is not None:
                inside = slice(start - group.rows.start, rows.stop - group.rows.start)
                kl, teacher_nll, taught = self._lesson_figures(logits, wanted[rows], group.lesson, inside)
            yield [value.double() for value in (nll, right, kl, teacher_nll, taught, nll * taught)]

    def _lesson_figures(
        self, logits: torch.Tensor, wanted: torch.Tensor, lesson: Lesson, rows: slice
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(n,) divergence, the teacher's own loss, and whether it has the token at all."""
        said = self._taught(lesson, rows)
        if lesson.mapped is None:
            log_p, log_q = ((side / self.temperature).log_softmax(-1) for side in (logits, said))
            kl = functional.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
            nll = functional.cross_entropy(said, wanted, reduction="none")
            return kl, nll, torch.ones_like(nll)
        kl = bucket_kl(logits, said, lesson.mapped, self.temperature)
        tells = torch.full((logits.shape[1],), NO_TOKEN, device=wanted.device)
        asked = tells.scatter(0, lesson.mapped.own, lesson.mapped.theirs)[wanted]
        nll = functional.cross_entropy(said, asked, reduction="none", ignore_index=NO_TOKEN)
        return kl, nll, (asked != NO_TOKEN).to(nll.dtype)

    @staticmethod
    def _taught(lesson: Lesson, rows: slice) -> torch.Tensor:
        """The teacher's logits of some of its rows."""
        if lesson.weight is None:
            return lesson.states[rows] if lesson.states.dtype == torch.float64 else lesson.states[rows].float()
        return _logits(lesson.states[rows], lesson.weight, lesson.bias, lesson.softcap)

    def _options(self, lesson: Lesson | None) -> Options:
        return Options(
            self.temperature, self.label_weight, self.softcap, self.chunk_elements, 0 if lesson is None else lesson.size
        )


def _logits(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, softcap: float | None
) -> torch.Tensor:
    logits = functional.linear(states, weight, bias)
    return capped(logits if logits.dtype == torch.float64 else logits.float(), softcap)


def _no_lesson(states: torch.Tensor, weight: torch.Tensor) -> Lesson:
    """Stands where the divergence counts nothing."""
    return Lesson(
        states.new_zeros(len(states), _NO_TEACHER_WIDTH), weight.new_zeros(len(weight), _NO_TEACHER_WIDTH), None
    )
