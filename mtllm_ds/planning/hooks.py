"""The places at which DeepSpeed's ZeRO-3 hooks act, noted instead of acted upon (DeepSpeed 0.19.8, `parameter_offload.py`).

What the hooks do with a module's forward and backward decides which weights are gathered when. They are followed here to the
letter, counters included, so that `zero3.py` can play back what DeepSpeed would do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mtllm_ds.planning.trace import Event, EventKind, Module


class ZeroHooks:
    """Notes the events of an objective that is run inside `noted`."""

    def __init__(self, root: nn.Module) -> None:
        self.weights = dict(root.named_parameters())
        self.modules: list[Module] = []
        self.events: list[Event] = []
        self._weight_of = {id(parameter): index for index, parameter in enumerate(self.weights.values())}
        self._stack: list[int] = []
        self._in_forward = self._in_backward = False
        self._register(root)
        for parameter in self.weights.values():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._gradient_came)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """The engine's forward runs inside."""
        self._in_forward, self._stack = True, [0]
        yield
        self._in_forward = False

    @contextmanager
    def backward(self) -> Iterator[None]:
        """The backward runs inside."""
        self._in_backward = True
        yield
        self._in_backward = False

    def touched(self, parameter: nn.Parameter | None) -> None:
        """A weight is read of its module. Outside of that module's own forward DeepSpeed gathers it, for the module that runs."""
        if parameter is not None and self._in_forward:
            weight = self._weight_of[id(parameter)]
            if weight not in self.modules[self._stack[-1]].weights:
                self._note("touch", self._stack[-1], weight)

    def _register(self, module: nn.Module) -> None:
        is_leaf = bool(getattr(module, "_z3_leaf", False))
        index = len(self.modules)
        own, below = self._positions(module, recurse=False), self._positions(module, recurse=True)
        self.modules.append(Module(below if is_leaf else own, below, is_leaf))
        if not isinstance(module._parameters, _Watched):
            module._parameters = _Watched(module._parameters, self)
        if not is_leaf:
            for child in module.children():
                self._register(child)
        counts = module.__dict__.setdefault("_zero_counts", _Counts())

        def enter(*_: Any) -> None:
            self._stack.append(index)
            self._note("enter", index)

        def leave(*_: Any) -> None:
            self._stack.pop()
            self._note("leave", index)

        def before_backward() -> None:
            if counts.awaited_backwards > 0:
                self._note("enter_backward", index)
                counts.awaited_backwards -= 1

        def after_backward() -> None:
            self._note("leave_backward", index)

        def watch_outputs(_: nn.Module, __: Any, output: Any) -> Any:
            return _to_tensors(lambda tensor: _Output.apply(tensor, counts, before_backward), output)

        def watch_inputs(_: nn.Module, inputs: Any) -> Any:
            counts.gradients_left = 0
            return _to_tensors(lambda tensor: _Input.apply(tensor, counts, after_backward), inputs)

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)
        module.register_forward_hook(watch_outputs)
        module.register_forward_pre_hook(watch_inputs)

    def _positions(self, module: nn.Module, *, recurse: bool) -> tuple[int, ...]:
        return tuple(sorted({self._weight_of[id(parameter)] for parameter in module.parameters(recurse=recurse)}))

    def _gradient_came(self, parameter: torch.Tensor) -> None:
        parameter.grad = None  # it moves into a bucket
        self._note("gradient", weight=self._weight_of[id(parameter)])

    def _note(self, kind: EventKind, module: int = -1, weight: int = -1) -> None:
        self.events.append(Event(kind, module, weight, is_recomputed=self._in_backward))


class _Counts:
    """What DeepSpeed keeps of a module between its hooks."""

    awaited_backwards = 0
    gradients_left = 0


class _Watched(dict):
    """A module's own parameters, which tells of each that is read."""

    def __init__(self, parameters: dict[str, nn.Parameter | None], hooks: ZeroHooks) -> None:
        super().__init__(parameters)
        self._hooks = hooks

    def __getitem__(self, name: str) -> Any:
        parameter = super().__getitem__(name)
        self._hooks.touched(parameter)
        return parameter


class _Output(torch.autograd.Function):
    """An output of a module: its gradient comes before the module's backward."""

    @staticmethod
    def forward(tensor: torch.Tensor, counts: _Counts, act: Callable[[], None]) -> torch.Tensor:
        return tensor.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, counts, ctx.act = inputs
        counts.awaited_backwards += 1

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.act()
        return (*gradients, None, None)


class _Input(torch.autograd.Function):
    """An input of a module: its gradient is there after the module's backward."""

    @staticmethod
    def forward(tensor: torch.Tensor, counts: _Counts, act: Callable[[], None]) -> torch.Tensor:
        return tensor.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        tensor, ctx.counts, ctx.act = inputs
        if tensor.requires_grad:
            ctx.counts.gradients_left += 1

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.counts.gradients_left -= 1
        if ctx.counts.gradients_left == 0:
            ctx.act()
        return (*gradients, None, None)


def _to_tensors(function: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    """`function` of every tensor in nested tuples, lists and (in place) mappings."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_to_tensors(function, part) for part in value))
    if isinstance(value, tuple | list):
        return type(value)(_to_tensors(function, part) for part in value)
    if isinstance(value, dict):
        for key in value:
            value[key] = _to_tensors(function, value[key])
    return value
