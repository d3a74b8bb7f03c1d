"""Every operator of a run on the `meta` device: its matrix products, the bytes that it moves, and the tensors then alive."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mtllm_kernels.common.scratch import GPU_SCRATCH_BYTES
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from mtllm_ds.observe.flop_formulas import FUSED_ATTENTION_BACKWARD, attention_flops, head_flops
from mtllm_ds.planning.trace import Operation

_HEAD_OPERATORS = "mtllm_kernels::"
_HEAD_MATRICES = 3
"""(rows, V) matrices in fp32 that a chunk of the fused loss needs on a GPU"""
_HEAD_LEAST_ROWS = 1024


class Operations(TorchDispatchMode):
    """Notes the operators that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Operation] = []
        self.alive_bytes = self.peak_bytes = self.head_bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.ops.aten._local_scalar_dense.default:
            return False  # such as transformers' question whether a mask holds no padding
        result = function(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        for tensor in outputs:
            self._born(tensor)
        if not function.is_view:
            inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            moved = sum(tensor.numel() * tensor.itemsize for tensor in (*inputs, *outputs))
            self.found.append(Operation(self._flops(function, args, kwargs, result), moved))
        return result

    def note(self, flops: int, traffic_bytes: int) -> None:
        """One operator that runs otherwise on a GPU than here."""
        self.found.append(Operation(flops, traffic_bytes))

    def _flops(self, function: Any, args: Any, kwargs: Any, result: Any) -> int:
        count = flop_registry.get(function._overloadpacket)
        if count is not None:
            return int(count(*args, **kwargs, out_val=result))
        if not function.name().startswith(_HEAD_OPERATORS):
            return 0
        return self._head(args, kwargs, function)

    def _head(self, args: Any, kwargs: Any, function: Any) -> int:
        """Products of a fused loss: a projection a side, and one more for each gradient that is formed."""
        given = {
            argument.name: value for argument, value in zip(function._schema.arguments, args, strict=False)
        } | kwargs
        (rows, width), (vocabulary, _) = given["student_hidden"].shape, given["student_weight"].shape
        row_bytes = _HEAD_MATRICES * 4 * vocabulary
        chunk = min(rows, max(GPU_SCRATCH_BYTES // row_bytes, _HEAD_LEAST_ROWS))
        self.head_bytes = max(self.head_bytes, chunk * row_bytes)
        sides = 2 if "teacher_hidden" in given else 1
        num_gradients = int(given["wants_hidden"]) + int(given["wants_weight"])
        return head_flops(rows, vocabulary, width, sides + num_gradients)

    def _born(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self.alive_bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self.alive_bytes)
        weakref.finalize(storage, self._gone, key, storage.nbytes())

    def _gone(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self.alive_bytes -= num_bytes

    def hold(self, tensors: list[torch.Tensor]) -> None:
        """Parameters and buffers, which are counted elsewhere."""
        self._known |= {tensor.untyped_storage()._cdata for tensor in tensors}


@contextmanager
def fused_attention(operations: Operations) -> Iterator[None]:
    """Inside, scaled dot products are those of a GPU's fused kernels: no matrix of S x S is kept.

    A mode of torch would not do: in the forwards that activation checkpointing makes inside the backward, none is on.
    """
    original = functional.scaled_dot_product_attention

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        output: torch.Tensor = _Attention.apply(query, key, value, operations)
        return output

    functional.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, operations: Operations) -> Any:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        log_sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, log_sums)
        ctx.operations, ctx.flops = operations, _products(query, key, value)
        operations.note(ctx.flops, _num_bytes(query, key, value, output))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        query, key, value, output, _ = ctx.saved_tensors
        ctx.operations.note(int(FUSED_ATTENTION_BACKWARD * ctx.flops), 2 * _num_bytes(query, key, value, output))
        return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape), None


def _products(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> int:
    rows = query.numel() // query.shape[-1]
    return attention_flops(rows * key.shape[-2], query.shape[-1], value.shape[-1])


def _num_bytes(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)
