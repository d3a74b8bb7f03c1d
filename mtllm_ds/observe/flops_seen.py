"""Which matrix products a pass through a model makes, seen once: in its linear layers, its experts and its attention."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from mtllm_ds.observe.flop_formulas import FUSED_ATTENTION_BACKWARD, attention_flops, product_flops

_EAGER = "eager"


@dataclass
class Products:
    """FLOPs of one kind of pass through one module: of linear layers for each place, of attention for each pair of places."""

    forward: float = 0.0
    backward: float = 0.0
    again: float = 0.0
    """Of forwards inside the backward (activation checkpointing)"""
    attention: float = 0.0
    attention_backward: float = 0.0
    attention_backward_made: float = 0.0
    """With the scores that fused kernels work out anew"""
    attention_again: float = 0.0
    unseen: str = ""
    """The class of a model that has heads, but whose attention was not seen"""


class Seen:
    """Looks on from the first note of a micro-batch to the end of its backward."""

    def __init__(self) -> None:
        self._owner: dict[int, nn.Module] = {}
        """By submodule, the module that was noted"""
        self._places: dict[tuple[int, bool], int] = defaultdict(int)
        self._passes: dict[tuple[int, bool], int] = defaultdict(int)
        self._found: dict[tuple[int, bool], Products] = defaultdict(Products)
        self._names: dict[int, str] = {}
        self._ends = ExitStack()
        self._ends.callback(_watch_attention(self._attention))
        if (
            "torch._dynamo" in sys.modules
        ):  # what is compiled runs as it is written meanwhile, or the hooks would be compiled too
            self._ends.enter_context(torch.compiler.set_stance("force_eager"))

    def watch(self, module: nn.Module, places: int) -> None:
        """A pass through a module begins, over so many places."""
        key = id(module), torch.is_grad_enabled()
        self._places[key] += places
        self._passes[key] += 1
        has_heads = getattr(getattr(module, "config", None), "num_attention_heads", None)
        self._names[id(module)] = type(module).__name__ if has_heads else ""
        for part in module.modules():  # each time: recorders may have stood in the layers' place (`models/paired.py`)
            if id(part) in self._owner:
                continue
            self._owner[id(part)] = module
            look = self._linear if _widths(part) else self._experts if _is_experts(part) else None
            if look is not None:
                self._ends.callback(part.register_forward_hook(look).remove)

    def products(self) -> dict[tuple[int, bool], Products]:
        """What was seen, by module and mode of gradients; nothing looks on any more."""
        self._ends.close()
        found = {}
        for key, places in self._places.items():
            products, passes = self._found[key], self._passes[key]
            for name in ("forward", "backward", "again"):
                setattr(products, name, getattr(products, name) / places)
            for name in ("attention", "attention_backward", "attention_backward_made", "attention_again"):
                setattr(products, name, getattr(products, name) / passes)
            products.unseen = "" if products.attention else self._names[key[0]]
            found[key] = products
        return found

    def _linear(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        inner, outer = _widths(module) or (0, 0)
        rows = inputs[0].numel() // inner
        self._add(module, product_flops(rows, inner, outer), [inputs[0], *module.parameters(recurse=False)][:2])

    def _experts(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        """(T, D) states and (T, k) experts of each."""
        states, chosen = inputs[0], inputs[1]
        tables = list(_tables(module))
        elements = sum(prod(_shape(table)[1:]) for table in tables)
        self._add(module, product_flops(chosen.numel(), elements, 1), [states, tables[0]])

    def _add(self, module: nn.Module, flops: int, factors: Sequence[torch.Tensor]) -> None:
        """A product: for each of its factors that needs a gradient, backward makes one more."""
        products = self._found[self._key(module)]
        if _is_in_backward():
            products.again += flops
            return
        products.forward += flops
        if torch.is_grad_enabled():
            products.backward += flops * sum(factor.requires_grad for factor in factors)

    def _attention(self, module: nn.Module, implementation: str, given: tuple[torch.Tensor, ...]) -> None:
        """(B, H, S, K) queries, (B, h, S, K) keys and (B, h, S, V) values."""
        if id(module) not in self._owner:
            return
        query, _, value = given
        flops = attention_flops(query.shape[1], query.shape[-1], value.shape[-1])
        products = self._found[self._key(module)]
        if _is_in_backward():
            products.attention_again += flops
            return
        products.attention += flops
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
            products.attention_backward += 2 * flops
            products.attention_backward_made += (2 if implementation == _EAGER else FUSED_ATTENTION_BACKWARD) * flops

    def _key(self, module: nn.Module) -> tuple[int, bool]:
        return id(self._owner[id(module)]), torch.is_grad_enabled()


def _widths(module: nn.Module) -> tuple[int, int] | None:
    """(inner, outer) of a linear layer; its weight itself may be away."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if type(module).__name__ == "Conv1D" and hasattr(module, "nx"):  # GPT-2's
        return int(module.nx), int(module.nf)  # type: ignore[arg-type]
    if type(module).__name__.endswith("Router") and isinstance(table := getattr(module, "weight", None), nn.Parameter):
        outer, inner = _shape(table)
        return inner, outer
    return None


def _is_experts(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Experts") and any(True for _ in _tables(module))


def _tables(module: nn.Module) -> Iterator[torch.Tensor]:
    return (table for table in module.parameters(recurse=False) if len(_shape(table)) == 3)


def _shape(parameter: torch.Tensor) -> tuple[int, ...]:
    """Whole, also where ranks hold shares of it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _is_in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


def _watch_attention(look: Callable[[nn.Module, str, tuple[torch.Tensor, ...]], None]) -> Callable[[], None]:
    """Let `look` see what transformers' attention functions are given; returns how to end that."""
    from transformers.modeling_utils import AttentionInterface

    original = AttentionInterface.get_interface

    def get_interface(self: Any, name: str, default: Callable[..., Any]) -> Callable[..., Any]:
        run = original(self, name, default)

        def seen(module: nn.Module, query: Any, key: Any, value: Any, *others: Any, **named: Any) -> Any:
            look(module, name, (query, key, value))
            return run(module, query, key, value, *others, **named)

        return seen

    def end() -> None:
        AttentionInterface.get_interface = original  # type: ignore[method-assign]

    AttentionInterface.get_interface = get_interface  # type: ignore[assignment, method-assign]
    return end
