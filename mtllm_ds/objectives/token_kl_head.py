"""The one owner of the language-model head in token distillation.

Under ZeRO-3 a head is whole only inside the forward of a module that owns it, and DeepSpeed gathers it again in the backward
of every module whose output carries a gradient. So the module that owns it returns plain numbers: the loss and the
gradient of the hidden states, formed there in the forward pass. The gradient enters the graph outside of it, and the
backward gathers no head: one gather a step, in training as in evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from mtllm_kernels import fused_linear_kl
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mtllm_ds.models.lm_head import OutputHead, capped
from mtllm_ds.objectives.clipped_divergence import clipped_rows
from mtllm_ds.objectives.cross_entropy import tell_rows
from mtllm_ds.objectives.top_tokens import top_token_rows
from mtllm_ds.observe.flops import note_head
from mtllm_ds.step_parts import in_part
from mtllm_ds.teachers.base import TopTokens


@dataclass(frozen=True, kw_only=True)
class TokenLoss:
    """What a token costs: kl_weight * T^2 * divergence(T) + nll_weight * cross-entropy of the token that came."""

    kl_weight: float = 1.0
    nll_weight: float = 0.0
    divergence: str = "forward_kl"
    """`forward_kl`, `reverse_kl` or `jsd` of `mtllm_kernels.fused_linear_kl`"""
    beta: float = 0.5
    """The teacher's share of the mixture of `jsd`"""
    temperature: float = 1.0
    clip: float | None = None
    """Most that an entry of the vocabulary may add (`clipped_divergence.py`)"""
    backend: str = "auto"

    @property
    def is_plain_kl(self) -> bool:
        """Whether the divergence is KL(teacher || student) itself."""
        return self.divergence == "forward_kl" and self.temperature == 1.0 and self.clip is None


class RowLosses(NamedTuple):
    """Of N rows, float32."""

    loss: Tensor
    """(N,), with gradients"""
    kl: Tensor | None
    """(N,) KL(teacher || student) in nats; None without a teacher, and in training where it would cost a further product"""
    nll: Tensor | None
    """(N,) cross-entropy in nats; None in training where it would cost a further product"""


class TokenKLHead(nn.Module):
    """Losses of next-token distributions that student and teacher give through the same frozen head."""

    def __init__(self, head: OutputHead, loss: TokenLoss) -> None:
        super().__init__()
        self.head = head
        self.reader = _HeadReader(head, loss)

    def forward(self, student: Tensor, teacher: Tensor | TopTokens | None, tokens: Tensor) -> RowLosses:
        """(N, D) final states before each token, the teacher's, its likeliest tokens or None, (N,) int64 tokens that came."""
        # Not even the parameter's flags are looked at here: DeepSpeed would take it for this module's own, and gather it.
        read = self.head.prepared(student)
        with torch.no_grad():
            known = self.head.prepared(teacher) if isinstance(teacher, Tensor) else teacher
        with in_part("head"):
            loss, kl, nll, gradient = self.reader(read, known, tokens)
        return RowLosses(loss if gradient is None else KnownGradient.apply(read, loss, gradient), kl, nll)


class _HeadReader(nn.Module):
    """Holds the head's own parameters, so that ZeRO-3 gathers them for its forward."""

    def __init__(self, head: OutputHead, loss: TokenLoss, chunk_elements: int = 2**24) -> None:
        super().__init__()
        self.weight, self.bias = head.weight, head.bias
        self.softcap = head.softcap
        self.loss = loss
        self.chunk_elements = chunk_elements

    def forward(
        self, student: Tensor, teacher: Tensor | TopTokens | None, tokens: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Loss, KL and cross-entropy of each row and the gradient of the summed loss, all without a graph."""
        needs_gradient = torch.is_grad_enabled() and student.requires_grad
        student = student.detach()
        note_head(len(student), self.weight, self._num_products(teacher, needs_gradient))
        if teacher is None:
            told = tell_rows(student, tokens, self.weight, self.bias, self.softcap, gradient=needs_gradient)
            scale = self.loss.nll_weight
            slope = None if told.gradient is None else told.gradient * scale
            return told.losses * scale, None, told.losses, slope
        if isinstance(teacher, TopTokens):
            return self._top_tokens(student, teacher, tokens, needs_gradient)
        form = self._fused if self.loss.clip is None else self._clipped
        loss, gradient = form(student, teacher, tokens, needs_gradient)
        return loss, *self._figures(student, teacher, tokens, loss), gradient

    def _num_products(self, teacher: Tensor | TopTokens | None, needs_gradient: bool) -> int:
        """With the head's matrix, in training."""
        if isinstance(teacher, Tensor):
            return 2 + needs_gradient
        reads = 2 if isinstance(teacher, TopTokens) and self.loss.nll_weight else 1
        return reads * (1 + needs_gradient)

    def _figures(
        self, student: Tensor, teacher: Tensor, tokens: Tensor, loss: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """KL and cross-entropy of each row: what is known from the loss, and in evaluation what is not."""
        own = self.loss
        kl = loss / own.kl_weight if own.is_plain_kl and not own.nll_weight else None
        if self.training:
            return kl, None
        if kl is None:
            kl = self._kernel(student, teacher, divergence="forward_kl")
        return kl, tell_rows(student, tokens, self.weight, self.bias, self.softcap, gradient=False).losses

    def _top_tokens(
        self, student: Tensor, teacher: TopTokens, tokens: Tensor, needs_gradient: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """As `forward`, from the teacher's likeliest tokens; the KL is that of these and of all others as one."""
        own = self.loss
        kl, gradient = top_token_rows(
            student, teacher, self.weight, self.bias, self.softcap,
            temperature=own.temperature, backend=own.backend, gradient=needs_gradient,
        )  # fmt: skip
        scale = own.kl_weight * own.temperature**2
        loss, nll = scale * kl, None
        gradient = None if gradient is None else scale * gradient
        if own.nll_weight or not self.training:
            told = tell_rows(student, tokens, self.weight, self.bias, self.softcap, gradient=needs_gradient)
            nll, loss = told.losses, loss + own.nll_weight * told.losses
            if gradient is not None and told.gradient is not None:
                gradient = gradient + own.nll_weight * told.gradient
        return loss, kl if own.temperature == 1.0 else None, nll, gradient

    def _fused(
        self, student: Tensor, teacher: Tensor, tokens: Tensor, needs_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        own = self.loss
        total = own.kl_weight + own.nll_weight
        labels = {"labels": tokens, "label_weight": own.nll_weight / total} if own.nll_weight else {}
        leaf = student.requires_grad_(needs_gradient)
        with torch.set_grad_enabled(needs_gradient):
            rows = total * self._kernel(
                leaf,
                teacher,
                divergence=own.divergence,
                beta=own.beta,
                temperature=own.temperature,
                scale_by_temperature=True,
                **labels,
            )
        gradient = torch.autograd.grad(rows.sum(), leaf)[0] if needs_gradient else None
        return rows.detach(), gradient

    def _clipped(
        self, student: Tensor, teacher: Tensor, tokens: Tensor, needs_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        own, rows = self.loss, max(1, self.chunk_elements // self.weight.shape[0])
        assert own.clip is not None
        losses: list[Tensor] = []
        gradients: list[Tensor] = []
        for part, other, wanted in zip(student.split(rows), teacher.split(rows), tokens.split(rows), strict=True):
            leaf = part.detach().requires_grad_(needs_gradient)
            with torch.set_grad_enabled(needs_gradient):
                logits = self._logits(leaf)
                loss = own.kl_weight * clipped_rows(
                    logits, self._logits(other), divergence=own.divergence, beta=own.beta,
                    temperature=own.temperature, clip=own.clip,
                )  # fmt: skip
                loss = loss + own.nll_weight * functional.cross_entropy(logits, wanted, reduction="none")
            losses.append(loss.detach())
            gradients += torch.autograd.grad(loss.sum(), leaf) if needs_gradient else []
        return torch.cat(losses), torch.cat(gradients) if needs_gradient else None

    def _logits(self, states: Tensor) -> Tensor:
        return capped(functional.linear(states, self.weight, self.bias).float(), self.softcap)

    def _kernel(self, student: Tensor, teacher: Tensor, **options) -> Tensor:
        head, bias = self.weight, self.bias
        return fused_linear_kl(
            student,
            head,
            teacher,
            head,
            student_bias=bias,
            teacher_bias=bias,
            softcap=self.softcap,
            reduction="none",
            backend=self.loss.backend,
            **options,
        )


class KnownGradient(torch.autograd.Function):
    """Puts a loss whose gradient is already known into the graph of its input."""

    @staticmethod
    def forward(ctx, hidden: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        (gradient,) = ctx.saved_tensors
        per_row = upstream[:, None] if upstream.dim() else upstream
        return (gradient * per_row).to(gradient.dtype), None, None
