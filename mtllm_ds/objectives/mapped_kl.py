"""Divergence between heads of different vocabularies: token by token where they have a token in common, in one bucket elsewhere.

With a = the tokens that both have and the temperature T on both sides' logits,

    KL = sum_a p_t log(p_t / p_s) + R_t log(R_t / R_s),     R = 1 - sum_a p, the mass of what only one side has

and with it, as in `fused_linear_kl`, cross-entropy on the text at T = 1. Of a student that has every one of its tokens in common no
mass can be elsewhere: the teacher's is then taken among those alone. Gradients are formed in forward, a few rows at a time, so that
neither logits nor, under ZeRO-3, the head are needed in backward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mtllm_ds.models.lm_head import capped


@dataclass(frozen=True)
class Mapped:
    """How two vocabularies meet, on the device. The student has V tokens, the teacher V_t; A are in common."""

    own: torch.Tensor
    """(A,) int64 the student's"""
    theirs: torch.Tensor
    """(A,) int64 the teacher's"""
    has_rest: bool
    """Whether the student has tokens beside those"""


@dataclass(frozen=True)
class Options:
    """As `fused_linear_kl` has them."""

    temperature: float
    label_weight: float
    softcap: float | None
    """The student's"""
    chunk_elements: int
    """Of either side's logits at a time"""
    teacher_size: int
    """V_t"""

    def rows_at_once(self, student_size: int) -> int:
        return max(1, self.chunk_elements // max(student_size, self.teacher_size))


def mapped_kl(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    teacher_logits: Callable[[slice], torch.Tensor],
    wanted: torch.Tensor,
    mapped: Mapped,
    options: Options,
) -> torch.Tensor:
    """Sum over rows of (1 - label_weight) T^2 KL + label_weight cross-entropy: a scalar, differentiable in states, weight and bias.

    Args:
        states: (N, D)
        weight, bias: (V, D), (V,)
        teacher_logits: function of a slice of rows -> (n, V_t), under the teacher's soft cap
        wanted: (N,) int64 tokens of the student
    """
    return _MappedKL.apply(states, weight, bias, teacher_logits, wanted, mapped, options)


def bucketed(logits: torch.Tensor, kept: torch.Tensor, has_rest: bool) -> torch.Tensor:
    """Log-probabilities of the kept tokens and, where there is a rest, of all others together: (n, V) -> (n, A[+ 1])."""
    if not has_rest:
        return logits[:, kept].log_softmax(-1)
    log_p = logits.log_softmax(-1)
    rest = logits.index_fill(1, kept, float("-inf")).logsumexp(-1, keepdim=True) - logits.logsumexp(-1, keepdim=True)
    return torch.cat([log_p[:, kept], rest], 1)


def bucket_kl(logits: torch.Tensor, taught: torch.Tensor, mapped: Mapped, temperature: float) -> torch.Tensor:
    """(n,) KL of the buckets of two sides' logits, (n, V) and (n, V_t)."""
    log_q = bucketed(logits / temperature, mapped.own, mapped.has_rest)
    log_p = bucketed(taught / temperature, mapped.theirs, mapped.has_rest)
    p = log_p.exp()
    return (p * (log_p - log_q)).masked_fill(p == 0, 0.0).sum(-1)  # a teacher without a rest: 0 * -inf


class _MappedKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, weight, bias, teacher_logits, wanted, mapped, options):
        needs = ctx.needs_input_grad[:3]
        rows = options.rows_at_once(len(weight))
        kind = torch.float64 if states.dtype == torch.float64 else torch.float32
        total = states.new_zeros((), dtype=kind)
        grads = [
            torch.zeros_like(t, dtype=kind) if need else None
            for t, need in zip((states, weight, bias), needs, strict=True)
        ]
        for start in range(0, len(states), rows):
            part = slice(start, min(start + rows, len(states)))
            product = functional.linear(states[part], weight, bias).to(kind)
            with torch.enable_grad():
                leaf = product.detach().requires_grad_()
                loss = _loss(leaf, teacher_logits(part).to(kind), wanted[part], mapped, options)
            total += loss.detach()
            if any(needs):
                (slope,) = torch.autograd.grad(loss, leaf)
                _add(grads, slope, states[part].to(kind), weight, part, options.chunk_elements)
        ctx.save_for_backward(
            *(g if g is None else g.to(t.dtype) for g, t in zip(grads, (states, weight, bias), strict=True))
        )
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        grads = [None if g is None else (g * upstream).to(g.dtype) for g in ctx.saved_tensors]
        return (*grads, None, None, None, None)


def _add(
    grads: list[torch.Tensor | None],
    slope: torch.Tensor,
    states: torch.Tensor,
    weight: torch.Tensor,
    part: slice,
    tile_elements: int,
) -> None:
    of_states, of_weight, of_bias = grads
    if of_states is not None:
        of_states[part] = _times(slope, weight, tile_elements)
    if of_weight is not None:
        of_weight.addmm_(slope.T, states)
    if of_bias is not None:
        of_bias += slope.sum(0)


def _times(slope: torch.Tensor, weight: torch.Tensor, tile_elements: int) -> torch.Tensor:
    """(n, V) (V, D) -> (n, D) in the precision of `slope`, without a copy of the whole matrix in it."""
    if weight.dtype == slope.dtype:
        return slope @ weight
    product, rows = slope.new_zeros(len(slope), weight.shape[1]), max(1, tile_elements // weight.shape[1])
    for start in range(0, len(weight), rows):
        tile = slice(start, start + rows)
        product.addmm_(slope[:, tile], weight[tile].to(slope.dtype))
    return product


def _loss(
    product: torch.Tensor, taught: torch.Tensor, wanted: torch.Tensor, mapped: Mapped, options: Options
) -> torch.Tensor:
    logits, temperature = capped(product, options.softcap), options.temperature
    loss = (1 - options.label_weight) * temperature**2 * bucket_kl(logits, taught, mapped, temperature).sum()
    return loss + options.label_weight * functional.cross_entropy(logits, wanted, reduction="sum")
