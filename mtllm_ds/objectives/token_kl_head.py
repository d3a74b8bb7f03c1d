"""The one owner of the language-model head in token distillation.

Under ZeRO-3 a head is whole only inside the forward of a module that owns it, and DeepSpeed gathers it again in the backward
of every module whose output carries a gradient. So the module that owns it returns plain numbers: the loss and the
gradient of the hidden states, formed there in the forward pass. The gradient enters the graph outside of it, and the
backward gathers no head: one gather a step, in training as in evaluation.
"""

from __future__ import annotations

import torch
from mtllm_kernels import fused_linear_kl
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class TokenKLHead(nn.Module):
    """Divergence between the next-token distributions that teacher and student give through the same frozen head.

    Options are those of `mtllm_kernels.fused_linear_kl`; a trained head is used the ordinary way, with a second gather.
    """

    def __init__(
        self,
        head: nn.Linear,
        *,
        divergence: str = "forward_kl",
        beta: float = 0.5,
        temperature: float = 1.0,
        scale_by_temperature: bool = False,
        softcap: float | None = None,
        reduction: str = "sum",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.reader = _HeadReader(head, {
            "divergence": divergence,
            "beta": beta,
            "temperature": temperature,
            "scale_by_temperature": scale_by_temperature,
            "softcap": softcap,
            "reduction": reduction,
            "backend": backend,
        })  # fmt: skip

    def forward(self, student_hidden: Tensor, teacher_hidden: Tensor, valid: Tensor | None = None) -> Tensor:
        """(N, D), (N, D), (N,) bool -> float32 loss, a scalar (or (N,) for reduction "none")."""
        # Not even the parameter's flags are looked at here: DeepSpeed would take it for this module's own, and gather it.
        loss, gradient = self.reader(student_hidden, teacher_hidden, valid)
        return loss if gradient is None else KnownGradient.apply(student_hidden, loss, gradient)


class _HeadReader(nn.Module):
    """Holds the head's own parameters, so that ZeRO-3 gathers them for its forward."""

    def __init__(self, head: nn.Linear, options: dict) -> None:
        super().__init__()
        self.weight, self.bias = head.weight, head.bias
        self.options = options

    def forward(
        self, student_hidden: Tensor, teacher_hidden: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """For a frozen head the loss and the gradient of its sum, both without a graph; else a loss with its graph."""
        if self.weight.requires_grad or not (torch.is_grad_enabled() and student_hidden.requires_grad):
            return self._loss(student_hidden, teacher_hidden, valid), None
        leaf = student_hidden.detach().requires_grad_()
        loss = self._loss(leaf, teacher_hidden, valid)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        return loss.detach(), gradient

    def _loss(self, student_hidden: Tensor, teacher_hidden: Tensor, valid: Tensor | None) -> Tensor:
        head, bias = self.weight, self.bias
        return fused_linear_kl(
            student_hidden,
            head,
            teacher_hidden,
            head,
            valid=valid,
            student_bias=bias,
            teacher_bias=bias,
            **self.options,
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
