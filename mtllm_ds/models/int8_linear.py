"""Frozen linear layers whose weight lies in 8 bits: kept, shared out and gathered so, and dequantised each time it is used.

W[o, i] is taken as q[o, i] step[o] with q in -127 ... 127 (O outputs, I inputs). One parameter of the dtype that the model computes
in holds the bytes of q and then the steps, and is never read as numbers. So ZeRO-3 shares it out and gathers it like any other
weight, in one call with those beside it, and whoever asks a layer for its weight's dtype gets a true answer (bitsandbytes calls
that dtype `quant_storage`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd
from transformers import PreTrainedModel

from mtllm_ds.cluster.zero import full_numel, full_shape, remade
from mtllm_ds.errors import UserError
from mtllm_ds.models.paired import layers_of

_MOST = 127
_ROWS = 64
"""Quantised at a time: what a CPU keeps in its cache takes a third of the time of all rows at once"""


class Int8Linear(nn.Linear):
    """A frozen `nn.Linear` whose `weight` is `packed`."""

    weight: nn.Parameter

    def __init__(self, in_features: int, out_features: int, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = in_features, out_features
        self.weight = weight
        self.register_parameter("bias", bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., I) -> (..., O), with gradients of the states alone."""
        product: torch.Tensor = _Product.apply(states, self.weight, self.bias, (self.out_features, self.in_features))
        return product

    def plain(self) -> nn.Linear:
        """The same function as an `nn.Linear`; the weight must be whole on this rank."""
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        weight = dequantised(self.weight.detach(), (self.out_features, self.in_features))
        linear.weight, linear.bias = nn.Parameter(weight, requires_grad=False), self.bias
        return linear

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Int8Linear:
        """Moves alone: a cast would change the bytes, which are no numbers.

        Raises:
            TypeError: `fn` changes the dtype.
        """
        cast = fn(self.weight.new_empty(0)).dtype
        if cast != self.weight.dtype:
            raise TypeError(
                f"8-bit weights packed in {self.weight.dtype} cannot become {cast}: load the model in that dtype, or call "
                "dequantise_layers first"
            )
        super()._apply(fn, recurse)
        return self


class _Product(torch.autograd.Function):
    """The dequantised weight is made anew in backward: kept, it would be what 8 bits save."""

    @staticmethod
    def forward(
        states: torch.Tensor, packed_weight: torch.Tensor, bias: torch.Tensor | None, shape: tuple[int, int]
    ) -> torch.Tensor:
        return functional.linear(states, dequantised(packed_weight, shape), bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, packed_weight, _, ctx.shape = inputs
        ctx.save_for_backward(packed_weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (packed_weight,) = ctx.saved_tensors
        return gradients[0] @ dequantised(packed_weight, ctx.shape), None, None, None


def packed(weight: torch.Tensor) -> torch.Tensor:
    """(O, I) -> (ceil(O I / bytes of the dtype) + O,) of the same dtype: q, filled up to whole elements, and the steps.

    The weight is rounded to bfloat16 first, and a step is the row's largest magnitude / 127 with bfloat16's digits: q and the steps
    are then the same whichever dtype a model is loaded in, so that an export is read with what the run in bf16 trained on. A
    dequantised weight differs from the weight in bfloat16 by at most half a step.
    """
    num_rows = len(weight) if weight.is_meta else _ROWS
    numbers, steps = zip(*(_rounded(rows) for rows in weight.detach().split(num_rows)), strict=True)
    small = torch.cat(numbers).flatten()
    filled = functional.pad(small, (0, -small.numel() % weight.itemsize))
    return torch.cat([filled.view(weight.dtype), torch.cat(steps).flatten().to(weight.dtype)])


def _rounded(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(O, I) -> q (O, I) int8, steps (O, 1) float32"""
    numbers = rows.bfloat16().float()
    steps = (numbers.abs().amax(1, keepdim=True) / _MOST).bfloat16().float()
    divisors = torch.where(steps == 0, 1.0, steps)  # a row of zeros
    return (numbers / divisors).round_().clamp_(-_MOST, _MOST).to(torch.int8), steps


def dequantised(packed_weight: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """The weight (O, I) of what `packed` gave, in the same dtype."""
    num_rows, width = shape
    filled, steps = packed_weight[:-num_rows], packed_weight[-num_rows:]
    small = filled.view(torch.int8)[: num_rows * width].view(num_rows, width)
    return small * steps.unsqueeze(1)  # of the steps' dtype, in one pass over memory


def quantise_layers(model: PreTrainedModel) -> None:
    """Put an `Int8Linear` in the place of each linear layer of a frozen model's layers; shares of ranks stay shares.

    Raises:
        UserError: its layers stand in no list, hold matrices elsewhere (fused experts, GPT-2's Conv1D) or share one, or it is in
            float16, which has no room for steps of small weights.
    """
    where = f"model.llm.quantization=int8: this {model.config.get_text_config().model_type} model"
    if model.dtype == torch.float16:
        raise UserError(
            f"{where} is read in float16, which has no room for steps of small weights; use bfloat16 or float32"
        )
    try:
        owner, name = layers_of(model)
    except LookupError as error:
        raise UserError(f"{where} has no layers to quantise ({error}); set it to null") from error
    layers = owner.get_submodule(name)
    if (kind := _kind_of_others(layers)) is not None:
        raise UserError(
            f"{where} holds matrices of its layers in {kind}, and nn.Linear alone is quantised; set it to null"
        )
    if (shared := _shared(layers)) is not None:
        raise UserError(f"{where} has one matrix in two linear layers, {shared[0]} and {shared[1]}; set it to null")
    _replace(layers, nn.Linear, _quantised)


def dequantise_layers(module: nn.Module) -> None:
    """Put an `nn.Linear` of the same function in the place of each `Int8Linear`; their weights must be whole on this rank."""
    _replace(module, Int8Linear, Int8Linear.plain)


def num_more_weights(module: nn.Module) -> int:
    """How many more weights a module has than its parameters have elements."""
    return sum(
        part.in_features * part.out_features - full_numel(part.weight)
        for part in module.modules()
        if isinstance(part, Int8Linear)
    )


def _quantised(linear: nn.Linear) -> Int8Linear:
    assert isinstance(linear.weight, nn.Parameter)
    return Int8Linear(linear.in_features, linear.out_features, remade(linear.weight, packed), linear.bias)


def _replace(module: nn.Module, kind: type[nn.Linear], make: Callable[[Any], nn.Linear]) -> None:
    made: dict[int, nn.Linear] = {}  # one that stands in two places stays one
    for part in list(module.modules()):
        for name, child in list(part._modules.items()):
            if type(child) is kind:
                part._modules[name] = made[id(child)] if id(child) in made else made.setdefault(id(child), make(child))


def _shared(layers: nn.Module) -> tuple[str, str] | None:
    """Names of the first two linear layers that have one weight."""
    names: dict[int, str] = {}
    for name, part in layers.named_modules():
        if type(part) is nn.Linear and (first := names.setdefault(id(part.weight), name)) != name:
            return first, name
    return None


def _kind_of_others(layers: nn.Module) -> str | None:
    """The class of the first module that holds a matrix and is neither linear, nor a table, nor a convolution."""
    for part in layers.modules():
        if type(part) is nn.Linear or isinstance(part, nn.Embedding | _ConvNd):
            continue
        if any(len(full_shape(parameter)) > 1 for parameter in part.parameters(recurse=False)):
            return type(part).__name__
    return None
