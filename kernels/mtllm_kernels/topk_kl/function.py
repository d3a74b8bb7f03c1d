"""`fused_topk_kl`: the public function and its operator, built as those of `fused_linear_kl` are."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mtllm_kernels import backend as backends
from mtllm_kernels.linear_kl.function import row_weights, scaled
from mtllm_kernels.linear_kl.problem import REDUCTIONS, check_choice, check_same, check_vector
from mtllm_kernels.products import Wanted
from mtllm_kernels.topk_kl import chunked, reference
from mtllm_kernels.topk_kl.problem import TopkProblem, check_topk_problem

TOPK_BACKENDS = ("auto", "triton", "chunked", "reference")


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
        topk_ids: (N, k) int32 or int64, distinct within a row and inside the vocabulary (not checked on a GPU).
        topk_log_probs: (N, k) floating, the teacher's log-probabilities at this temperature; -inf for an empty slot.
        temperature: divides the student's logits.
        valid: (N,) bool; rows that are False count for nothing, whatever they hold.
        reduction: "mean" over valid rows, "sum", or "none" for the rows, (N,).
        backend: "auto", "triton", "chunked" or "reference".

    Returns:
        float32 loss (float64 for float64 inputs), a scalar or (N,). No valid row at all: 0, with zero gradients.

    Raises:
        ValueError: a shape, dtype, device or setting that does not fit, naming it.
        NotImplementedError: an option the chosen backend cannot honour, naming it.
    """
    check_choice("backend", backend, TOPK_BACKENDS)
    check_choice("reduction", reduction, REDUCTIONS)
    check_vector("valid", valid, student_hidden.shape[0], (torch.bool,))
    check_same("valid", valid, "student_hidden", student_hidden, dtype=False)
    weight = row_weights(student_hidden, valid, reduction)
    problem = TopkProblem(student_hidden, student_weight, topk_ids, topk_log_probs.detach(), weight, temperature)
    check_topk_problem(problem)
    if backend == "reference":
        rows = reference.weighted_rows(problem)
        return rows if reduction == "none" else rows.sum()
    grad = torch.is_grad_enabled()
    loss, *_ = topk_kl(
        student_hidden,
        student_weight,
        topk_ids,
        problem.topk_log_probs,
        weight,
        temperature,
        backend,
        reduction == "none",
        grad and student_hidden.requires_grad,
        grad and student_weight.requires_grad,
    )
    return loss


def solve_topk_kl(
    student_hidden: Tensor,
    student_weight: Tensor,
    topk_ids: Tensor,
    topk_log_probs: Tensor,
    row_weight: Tensor,
    temperature: float,
    backend: str,
    per_row: bool,
    wants_hidden: bool,
    wants_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """What the operator computes: (loss, grad_hidden, grad_weight); what is not wanted has no elements."""
    problem = TopkProblem(student_hidden, student_weight, topk_ids, topk_log_probs, row_weight, temperature)
    solve = chunked.solve
    device = student_hidden.device
    if backend == "triton" or (backend == "auto" and device.type == "cuda" and backends.triton_runs_on(device)):
        backends.require_triton(backend, device)
        from mtllm_kernels.topk_kl import device as triton_device

        solve = triton_device.solve
    result = solve(problem, Wanted(wants_hidden, wants_weight and not per_row, False))
    rows = result.loss_rows * torch.where(row_weight != 0, row_weight, 0.0)
    nothing = student_hidden.new_empty
    return (
        rows if per_row else rows.sum(),
        nothing(0) if result.grad_hidden is None else result.grad_hidden,
        nothing(0) if result.grad_weight is None else result.grad_weight,
    )


topk_kl = torch.library.custom_op("mtllm_kernels::topk_kl", solve_topk_kl, mutates_args=())


@topk_kl.register_fake
def _(student_hidden, student_weight, topk_ids, topk_log_probs, row_weight, temperature, backend, per_row,
      wants_hidden, wants_weight):  # fmt: skip
    nothing = student_hidden.new_empty
    return (
        row_weight.new_empty(student_hidden.shape[:1] if per_row else ()),
        nothing(student_hidden.shape) if wants_hidden else nothing(0),
        student_weight.new_empty(student_weight.shape) if wants_weight and not per_row else nothing(0),
    )


def _setup_context(ctx, inputs, output) -> None:
    *tensors, row_weight, temperature, backend, per_row, wants_hidden, wants_weight = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.wanted, ctx.per_row = Wanted(wants_hidden, wants_weight, False), per_row
    ctx.runs_again = per_row and wants_weight
    ctx.temperature, ctx.backend = temperature, backend
    ctx.save_for_backward(*output[1:], *((*tensors, row_weight) if ctx.runs_again else ()))


@once_differentiable
def _backward(ctx, grad_loss, *_):
    gradients: list[Tensor | None] = [None] * 10
    if grad_loss is None:
        return tuple(gradients)
    grad_hidden, grad_weight, *inputs = ctx.saved_tensors
    if ctx.wanted.hidden:
        gradients[0] = scaled(grad_hidden, grad_loss[:, None] if ctx.per_row else grad_loss)
    if ctx.runs_again:
        *tensors, row_weight = inputs
        _, _, gradients[1] = topk_kl(*tensors, row_weight * grad_loss, ctx.temperature, ctx.backend, False, False, True)
    elif ctx.wanted.weight:
        gradients[1] = scaled(grad_weight, grad_loss)
    return tuple(gradients)


topk_kl.register_autograd(_backward, setup_context=_setup_context)
