"""`fused_linear_kl`: the public function and its operator."""

from dataclasses import replace

import torch
from torch import Tensor

from mtllm_kernels.common import backend as backends
from mtllm_kernels.common.autocast import as_autocast_casts
from mtllm_kernels.common.checks import REDUCTIONS, check_choice, check_matrix, check_same, check_vector
from mtllm_kernels.common.operator import Operator, Solver
from mtllm_kernels.common.problem import row_weights, weighted
from mtllm_kernels.linear_kl import chunked, reference
from mtllm_kernels.linear_kl.problem import Problem, check_problem

BACKENDS = ("auto", "triton", "triton-split", "triton-fused", "chunked", "reference")


def fused_linear_kl(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    *,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    temperature: float = 1.0,
    scale_by_temperature: bool = False,
    valid: Tensor | None = None,
    labels: Tensor | None = None,
    label_weight: float = 0.0,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    softcap: float | None = None,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """Divergence between teacher and student next-token distributions, straight from hidden states and heads.

    Args:
        student_hidden: (N, D_s), float32, float16 or bfloat16 (float64 on "chunked" and "reference").
        student_weight: (V, D_s), same dtype; trained if it requires a gradient, else its gradient costs nothing.
        teacher_hidden: (N, D_t), same dtype, never differentiated.
        teacher_weight: (V, D_t), never differentiated as such; pass the same object as student_weight for a shared head.
        divergence: "forward_kl" KL(teacher || student), "reverse_kl" KL(student || teacher), or "jsd",
            beta KL(teacher || m) + (1 - beta) KL(student || m) with m = beta teacher + (1 - beta) student.
        beta: the teacher's share of the mixture, in (0, 1); used by "jsd" alone.
        temperature: divides the logits of both sides; scale_by_temperature multiplies the divergence by its square.
        valid: (N,) bool; rows that are False count for nothing, whatever they hold.
        labels: (N,) int64 in [0, V) or -100 for none; row loss = (1 - label_weight) * divergence + label_weight * cross-entropy,
            the latter at T = 1. A label outside of the vocabulary raises on a CPU; on a GPU, where an error would cost a
            synchronisation, its row becomes NaN.
        student_bias: (V,), any floating dtype; -inf on both sides removes a column.
        teacher_bias: the same, never differentiated.
        softcap: c of the soft cap c * tanh(z / c) of both sides' logits.
        reduction: "mean" over valid rows, "sum", or "none" for the rows, (N,).
        backend: "auto", "triton" (or one of its plans, "triton-split" and "triton-fused"), "chunked", "reference".

    Under torch.autocast hidden states and heads (float64 excepted) are cast to its dtype, as `F.linear` would cast them, and the
    rest stays in float32. NaN or +inf in the logits of a row makes that row's loss and gradient NaN.

    Returns:
        float32 loss (float64 for float64 inputs), a scalar or (N,). No valid row at all: 0, with zero gradients. Differentiable
        once, backwards: create_graph and forward mode raise NotImplementedError.

    Raises:
        ValueError: a shape, dtype, device or setting that does not fit, naming it.
        NotImplementedError: an option the chosen backend cannot honour, naming it.
    """
    check_choice("backend", backend, BACKENDS)
    check_choice("reduction", reduction, REDUCTIONS)
    check_matrix("student_hidden", student_hidden, None, None)
    check_vector("valid", valid, student_hidden.shape[0], (torch.bool,))
    check_same("valid", valid, "student_hidden", student_hidden, dtype=False)
    shared_head = teacher_weight is student_weight
    problem = Problem(
        student_hidden=as_autocast_casts(student_hidden),
        student_weight=as_autocast_casts(student_weight),
        teacher_hidden=as_autocast_casts(teacher_hidden.detach()),
        teacher_weight=None if shared_head else as_autocast_casts(teacher_weight.detach()),
        student_bias=student_bias,
        teacher_bias=None if teacher_bias is None else teacher_bias.detach(),
        row_weight=row_weights(student_hidden, valid, reduction),
        labels=labels,
        divergence=divergence,
        beta=beta,
        temperature=temperature,
        divergence_scale=temperature**2 if scale_by_temperature else 1.0,
        label_weight=label_weight,
        softcap=softcap,
    )
    check_problem(problem)
    problem = _without_offsets(problem)
    if backend == "reference":
        problem = problem.without_wrong_rows()
        rows = weighted(reference.loss_rows(problem), problem.row_weight)
        return rows if reduction == "none" else rows.sum()
    return linear_kl(problem, per_row=reduction == "none", backend=backend)


def _without_offsets(p: Problem) -> Problem:
    """A constant in a bias changes no probability, but would cost the logits their low bits."""
    if p.softcap is not None or (p.student_bias is None and p.teacher_bias is None):
        return p
    biases = (None if b is None else b.to(p.accumulator) for b in (p.student_bias, p.teacher_bias))
    student_bias, teacher_bias = (None if b is None else b - b.detach().amax() for b in biases)
    return replace(p, student_bias=student_bias, teacher_bias=teacher_bias)


def _solver(backend: str, problem: Problem) -> Solver[Problem]:
    if not backends.takes_triton(backend, problem.student_hidden.device):
        return chunked.solve
    from mtllm_kernels.linear_kl import device as triton_device

    return triton_device.solver(backend, problem)


linear_kl = Operator("linear_kl", Problem, _solver)
