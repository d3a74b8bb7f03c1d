"""The operator around a solver, which makes it safe under autograd and torch.compile.

It returns the loss together with the gradients of it, all formed in the forward pass, so nothing of size N x V is kept and
the backward pass needs no head. The backward scales what was kept into new tensors, never in place: it may be run twice.
Only a loss of every row with a trained head must run the products again, since the weights of the rows are known in the
backward pass alone.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mtllm_kernels.common.chunks import Result, Wanted, kept_dtype
from mtllm_kernels.common.problem import HeadProblem, weighted
from mtllm_kernels.common.products import accumulator_of

P = TypeVar("P", bound=HeadProblem)
Solver = Callable[[P, Wanted], Result]

SCHEMA_TYPES: dict[Any, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    str: "str",
    bool: "bool",
    float: "float",
    float | None: "float?",
}
OUTPUTS = "(Tensor loss, Tensor grad_hidden, Tensor grad_weight, Tensor grad_bias)"


@dataclasses.dataclass(frozen=True)
class Call(Generic[P]):
    """One call of an operator. With `per_row` the loss is (N,), and the head's gradients are left to the backward pass."""

    problem: P
    wanted: Wanted
    per_row: bool
    backend: str

    @property
    def formed(self) -> Wanted:
        """The gradients to be formed now."""
        w = self.wanted
        return Wanted(w.hidden, w.weight and not self.per_row, w.bias and not self.per_row)


class Operator(Generic[P]):
    """`mtllm_kernels::<name>`: its arguments are the fields of one type of problem and of `Call`; it gives (loss,
    grad_hidden, grad_weight, grad_bias), of which those that are not formed have no elements.
    """

    def __init__(self, name: str, kind: type[P], solver: Callable[[str, P], Solver]) -> None:
        """`solver` gives the function that solves a problem on a backend."""
        self._kind, self._solver = kind, solver
        types = typing.get_type_hints(kind)
        self._fields = tuple(field.name for field in dataclasses.fields(kind))
        arguments = [f"{SCHEMA_TYPES[types[field]]} {field}" for field in self._fields]
        arguments += [f"bool wants_{field.name}" for field in dataclasses.fields(Wanted)]
        schema = f"({', '.join([*arguments, 'bool per_row', 'str backend'])}) -> {OUTPUTS}"
        self.operator = torch.library.custom_op(f"mtllm_kernels::{name}", self.compute, mutates_args=(), schema=schema)
        self.operator.register_fake(self._fake)
        self.operator.register_autograd(self._backward, setup_context=self._setup_context)

    def __call__(self, problem: P, *, per_row: bool, backend: str) -> Tensor:
        """The loss, a scalar or (N,), differentiable once, backwards, in the student's tensors that require a gradient."""
        _refuse_forward_mode(problem)
        grad, bias = torch.is_grad_enabled(), problem.trained_bias
        wanted = Wanted(
            grad and problem.student_hidden.requires_grad,
            grad and problem.student_weight.requires_grad,
            grad and bias is not None and bias.requires_grad,
        )
        loss, *_ = self.operator(*self.flat(Call(problem, wanted, per_row, backend)))
        return loss

    def flat(self, call: Call[P]) -> tuple:
        """The operator's arguments."""
        w = call.wanted
        fields = (getattr(call.problem, name) for name in self._fields)
        return (*fields, w.hidden, w.weight, w.bias, call.per_row, call.backend)

    def _call(self, flat: tuple) -> Call[P]:
        *fields, hidden, weight, bias, per_row, backend = flat
        problem = self._kind(**dict(zip(self._fields, fields, strict=True)))
        return Call(problem, Wanted(hidden, weight, bias), per_row, backend)

    def compute(self, *flat) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the operator does, in plain operators."""
        call = self._call(flat)
        p = call.problem
        with torch.autocast(p.student_hidden.device.type, enabled=False):  # dtypes are the kernels' own affair
            p = p.without_wrong_rows()
            result = self._solver(call.backend, p)(p, call.formed)
        rows = weighted(result.loss_rows, p.row_weight)
        grads = (result.grad_hidden, result.grad_weight, result.grad_bias)
        nothing = p.student_hidden.new_empty(0)
        hidden, weight, bias = (nothing.clone() if grad is None else grad for grad in grads)
        return rows if call.per_row else rows.sum(), hidden, weight, bias

    def _fake(self, *flat) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        call = self._call(flat)
        p, bias = call.problem, call.problem.trained_bias
        nothing = p.student_hidden.new_empty
        return (
            nothing((p.num_rows,) if call.per_row else (), dtype=accumulator_of(p.student_hidden)),
            _kept_like(p.student_hidden) if call.formed.hidden else nothing(0),
            _kept_like(p.student_weight) if call.formed.weight else nothing(0),
            _kept_like(bias) if call.formed.bias and bias is not None else nothing(0),
        )

    def _setup_context(self, ctx, inputs: tuple, output: tuple) -> None:
        call = self._call(inputs)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.wanted, ctx.per_row = call.wanted, call.per_row
        p, bias = call.problem, call.problem.trained_bias
        ctx.dtypes = (p.student_hidden.dtype, p.student_weight.dtype, None if bias is None else bias.dtype)
        ctx.runs_again = call.formed != call.wanted
        ctx.settings = [None if isinstance(x, Tensor) else x for x in inputs]
        kept = inputs if ctx.runs_again else ()
        ctx.save_for_backward(*output[1:], *(x if isinstance(x, Tensor) else None for x in kept))

    def _backward(self, ctx, grad_loss: Tensor | None, *_) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph: the result would look like a constant
            raise NotImplementedError(f"{self.operator} gives first derivatives only: call without create_graph")
        found = {} if grad_loss is None else self._gradients(ctx, grad_loss)
        rest = len(dataclasses.fields(Wanted)) + 2
        return (*(found.get(name) for name in self._fields), *(None for _ in range(rest)))

    def _gradients(self, ctx, grad_loss: Tensor) -> dict[str, Tensor]:
        """By the names of the problem's fields."""
        grad_hidden, grad_weight, grad_bias, *tensors = ctx.saved_tensors
        w, found = ctx.wanted, {}
        hidden_dtype, weight_dtype, bias_dtype = ctx.dtypes
        if w.hidden:
            found["student_hidden"] = _scaled(
                grad_hidden, grad_loss[:, None] if ctx.per_row else grad_loss, hidden_dtype
            )
        if ctx.runs_again:
            flat = tuple(s if t is None else t for s, t in zip(ctx.settings, tensors, strict=True))
            call = self._call(flat)
            problem = dataclasses.replace(call.problem, row_weight=call.problem.row_weight * grad_loss)
            again = Call(problem, Wanted(False, w.weight, w.bias), per_row=False, backend=call.backend)
            _, _, grad_weight, grad_bias = self.operator(*self.flat(again))
            grad_loss = grad_loss.new_ones(())
        if w.weight:
            found["student_weight"] = _scaled(grad_weight, grad_loss, weight_dtype)
        if w.bias:
            found["student_bias"] = _scaled(grad_bias, grad_loss, bias_dtype)
        return found


def _kept_like(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape, dtype=kept_dtype(tensor))


def _scaled(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """gradient * factor with one rounding, into a new tensor."""
    return (gradient * factor).to(dtype)


def _refuse_forward_mode(problem: HeadProblem) -> None:
    if torch.compiler.is_compiling():
        return
    for tensor in (problem.student_hidden, problem.student_weight, problem.trained_bias):
        if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotImplementedError("forward-mode derivatives are not there; use backend='reference' for them")
