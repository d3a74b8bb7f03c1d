"""`fused_topk_kl`: the public function and its operator, built as those of `fused_linear_kl` are."""

import torch
from torch import Tensor

from mtllm_kernels.common import backend as backends
from mtllm_kernels.common.autocast import as_autocast_casts
from mtllm_kernels.common.checks import REDUCTIONS, check_choice, check_matrix, check_same, check_vector
from mtllm_kernels.common.operator import Operator, Solver
from mtllm_kernels.common.problem import row_weights, weighted
from mtllm_kernels.topk_kl import chunked, reference
from mtllm_kernels.topk_kl.problem import TopkProblem, check_topk_problem

BACKENDS = ("auto", "triton", "chunked", "reference")


def fused_topk_kl(
    student_hidden: Tensor,
    student_weight: Tensor,
    topk_ids: Tensor,
    topk_log_probs: Tensor,
    *,
    temperature: float = 1.0,
    valid: Tensor | None = None,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """Forward KL from a teacher of whom only the k likeliest tokens were kept, all others being one exact bucket.

    Args:
        student_hidden: (N, D), float32, float16 or bfloat16 (float64 on "chunked" and "reference").
        student_weight: (V, D), same dtype; trained if it requires a gradient.
        topk_ids: (N, k) int32 or int64, distinct within a row and inside the vocabulary.
        topk_log_probs: (N, k) floating, the teacher's log-probabilities at this temperature; -inf for an empty slot, whose id
            says nothing: its token, if it is one, belongs to the bucket of all others.
            What breaks these two rules raises on a CPU; on a GPU, where that would cost a synchronisation, its row is NaN.
        temperature: divides the student's logits.
        valid: (N,) bool; rows that are False count for nothing, whatever they hold.
        reduction: "mean" over valid rows, "sum", or "none" for the rows, (N,).
        backend: "auto", "triton", "chunked" or "reference".

    Under torch.autocast, and for NaN, as `fused_linear_kl`.

    Returns:
        float32 loss (float64 for float64 inputs), a scalar or (N,). No valid row at all: 0, with zero gradients. Differentiable
        once, backwards.

    Raises:
        ValueError: a shape, dtype, device or setting that does not fit, naming it.
        NotImplementedError: an option the chosen backend cannot honour, naming it.
    """
    check_choice("backend", backend, BACKENDS)
    check_choice("reduction", reduction, REDUCTIONS)
    check_matrix("student_hidden", student_hidden, None, None)
    check_vector("valid", valid, student_hidden.shape[0], (torch.bool,))
    check_same("valid", valid, "student_hidden", student_hidden, dtype=False)
    problem = TopkProblem(
        student_hidden=as_autocast_casts(student_hidden),
        student_weight=as_autocast_casts(student_weight),
        row_weight=row_weights(student_hidden, valid, reduction),
        topk_ids=topk_ids,
        topk_log_probs=topk_log_probs.detach(),
        temperature=temperature,
    )
    check_topk_problem(problem)
    if backend == "reference":
        problem = problem.without_wrong_rows()
        rows = weighted(reference.loss_rows(problem), problem.row_weight)
        return rows if reduction == "none" else rows.sum()
    return topk_kl(problem, per_row=reduction == "none", backend=backend)


def _solver(backend: str, problem: TopkProblem) -> Solver[TopkProblem]:
    if not backends.takes_triton(backend, problem.student_hidden.device):
        return chunked.solve
    from mtllm_kernels.topk_kl import device as triton_device

    return triton_device.solve


topk_kl = Operator("topk_kl", TopkProblem, _solver)
