"""`fused_linear_kl`: the public function, and the operator that makes it safe under autograd and torch.compile.

The operator returns the loss together with the gradients of it, all formed in the forward pass, so nothing of size
N x V is kept and the backward pass needs neither head. The backward scales what was kept into new tensors, never in place:
it may be run twice. Only `reduction="none"` with a trained head must run the products again, since the weights of
the rows are known in the backward pass alone.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mtllm_kernels import backend as backends
from mtllm_kernels.linear_kl import chunked, reference
from mtllm_kernels.linear_kl.problem import (
    REDUCTIONS,
    Problem,
    check_choice,
    check_problem,
    check_same,
    check_vector,
)
from mtllm_kernels.products import Wanted


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
        labels: (N,) int64, -100 for none; row loss = (1 - label_weight) * divergence + label_weight * cross-entropy at T = 1.
        student_bias, teacher_bias: (V,), any floating dtype; -inf on both sides removes a column.
        softcap: c of the soft cap c * tanh(z / c) of both sides' logits.
        reduction: "mean" over valid rows, "sum", or "none" for the rows, (N,).
        backend: "auto", "triton" (or one of its plans, "triton-split" and "triton-fused"), "chunked", "reference".

    Returns:
        float32 loss (float64 for float64 inputs), a scalar or (N,). No valid row at all: 0, with zero gradients.

    Raises:
        ValueError: a shape, dtype, device or setting that does not fit, naming it.
        NotImplementedError: an option the chosen backend cannot honour, naming it.
    """
    backends.check_backend(backend)
    check_choice("reduction", reduction, REDUCTIONS)
    num_rows = student_hidden.shape[0]
    check_vector("valid", valid, num_rows, (torch.bool,))
    check_same("valid", valid, "student_hidden", student_hidden, dtype=False)
    problem = Problem(
        student_hidden=student_hidden,
        student_weight=student_weight,
        teacher_hidden=teacher_hidden.detach(),
        teacher_weight=student_weight if teacher_weight is student_weight else teacher_weight.detach(),
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
    if backend == "reference":
        rows = reference.weighted_rows(problem)
        return rows if reduction == "none" else rows.sum()
    return _through_operator(problem, reduction, backend)


def row_weights(like: Tensor, valid: Tensor | None, reduction: str) -> Tensor:
    """(N,) weights whose sum over the rows' losses is the reduction; 0 for rows that are not valid. No host sync."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    num_rows = like.shape[0]
    if valid is None:
        share = 1 / max(num_rows, 1) if reduction == "mean" else 1.0
        return torch.full((num_rows,), share, dtype=dtype, device=like.device)
    weight = valid.to(dtype)
    return weight / weight.sum().clamp(min=1) if reduction == "mean" else weight


def _through_operator(p: Problem, reduction: str, backend: str) -> Tensor:
    grad = torch.is_grad_enabled()
    loss, *_ = linear_kl(
        p.student_hidden,
        p.student_weight,
        p.teacher_hidden,
        None if p.shared_head else p.teacher_weight,
        p.student_bias,
        p.teacher_bias,
        p.row_weight,
        p.labels,
        p.divergence,
        p.beta,
        p.temperature,
        p.divergence_scale,
        p.label_weight,
        p.softcap,
        backend,
        reduction == "none",
        grad and p.student_hidden.requires_grad,
        grad and p.student_weight.requires_grad,
        grad and p.student_bias is not None and p.student_bias.requires_grad,
    )
    return loss


def solve_linear_kl(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor | None,
    student_bias: Tensor | None,
    teacher_bias: Tensor | None,
    row_weight: Tensor,
    labels: Tensor | None,
    divergence: str,
    beta: float,
    temperature: float,
    divergence_scale: float,
    label_weight: float,
    softcap: float | None,
    backend: str,
    per_row: bool,
    wants_hidden: bool,
    wants_weight: bool,
    wants_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the operator computes: (loss, grad_hidden, grad_weight, grad_bias); what is not wanted has no elements.

    teacher_weight None means the student's (an operator's arguments may not alias). With `per_row` the loss is (N,) and
    the gradients of head and bias are left to the backward pass.
    """
    problem = Problem(
        student_hidden, student_weight, teacher_hidden, student_weight if teacher_weight is None else teacher_weight,
        student_bias, teacher_bias, row_weight, labels, divergence, beta, temperature, divergence_scale, label_weight, softcap,
    )  # fmt: skip
    wanted = Wanted(wants_hidden, wants_weight and not per_row, wants_bias and not per_row)
    result = _solver(backend, problem)(problem, wanted)
    rows = result.loss_rows * torch.where(row_weight != 0, row_weight, 0.0)
    nothing = student_hidden.new_empty
    return (
        rows if per_row else rows.sum(),
        nothing(0) if result.grad_hidden is None else result.grad_hidden,
        nothing(0) if result.grad_weight is None else result.grad_weight,
        nothing(0) if result.grad_bias is None else result.grad_bias,
    )


def _solver(backend: str, problem: Problem):
    """The function that solves the problem on this backend; "auto" takes Triton where it runs and honours the options."""
    if backend == "chunked":
        return chunked.solve
    device = problem.student_hidden.device
    if backend == "auto" and not (device.type == "cuda" and backends.triton_runs_on(device)):
        return chunked.solve
    backends.require_triton(backend, device)
    from mtllm_kernels.linear_kl import device as triton_device

    return triton_device.solver(backend, problem)


linear_kl = torch.library.custom_op("mtllm_kernels::linear_kl", solve_linear_kl, mutates_args=())


@linear_kl.register_fake
def _(
    student_hidden, student_weight, teacher_hidden, teacher_weight, student_bias, teacher_bias, row_weight, labels,
    divergence, beta, temperature, divergence_scale, label_weight, softcap, backend, per_row, wants_hidden, wants_weight,
    wants_bias,
):  # fmt: skip
    accumulator = torch.float64 if student_hidden.dtype == torch.float64 else torch.float32
    nothing = student_hidden.new_empty
    return (
        nothing(student_hidden.shape[:1] if per_row else (), dtype=accumulator),
        nothing(student_hidden.shape) if wants_hidden else nothing(0),
        student_weight.new_empty(student_weight.shape) if wants_weight and not per_row else nothing(0),
        student_bias.new_empty(student_bias.shape) if wants_bias and not per_row else nothing(0),
    )


NUM_TENSORS, NUM_ARGUMENTS = 8, 19


def _setup_context(ctx, inputs, output) -> None:
    *_, per_row, wants_hidden, wants_weight, wants_bias = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.wanted = Wanted(wants_hidden, wants_weight, wants_bias)
    ctx.runs_again = per_row and (wants_weight or wants_bias)
    ctx.per_row, ctx.settings = per_row, inputs[NUM_TENSORS:]
    ctx.save_for_backward(*output[1:], *(inputs[:NUM_TENSORS] if ctx.runs_again else ()))


@once_differentiable
def _backward(ctx, grad_loss, *_):
    gradients: list[Tensor | None] = [None] * NUM_ARGUMENTS
    if grad_loss is None:
        return tuple(gradients)
    grad_hidden, grad_weight, grad_bias, *inputs = ctx.saved_tensors
    if ctx.wanted.hidden:
        gradients[0] = scaled(grad_hidden, grad_loss[:, None] if ctx.per_row else grad_loss)
    if ctx.runs_again:
        *tensors, row_weight, labels = inputs
        settings = (*ctx.settings[:-4], False, False, ctx.wanted.weight, ctx.wanted.bias)
        _, _, grad_weight, grad_bias = linear_kl(*tensors, row_weight * grad_loss, labels, *settings)
        gradients[1] = grad_weight if ctx.wanted.weight else None
        gradients[4] = grad_bias if ctx.wanted.bias else None
    else:
        gradients[1] = scaled(grad_weight, grad_loss) if ctx.wanted.weight else None
        gradients[4] = scaled(grad_bias, grad_loss) if ctx.wanted.bias else None
    return tuple(gradients)


def scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    """gradient * factor, in the gradient's dtype with one rounding, into a new tensor."""
    return (gradient * factor).to(gradient.dtype)


linear_kl.register_autograd(_backward, setup_context=_setup_context)
