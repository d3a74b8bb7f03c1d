"""Several layers of the encoder, mixed: what enters the connector is a weighted mean of their states.

    s = sum_k softmax(a)_k * norm(h_k)

h_k are the states after layer k (0: the embeddings, the last: the encoder's final states), each brought to mean 0 and variance 1
over its features, since layers of one encoder differ in scale by orders of magnitude; a are trained and start at 0, the plain mean.

Source: "global softmax weighting" of Puranegedara et al., "Utilizing Multilingual Encoders to Improve Large Language Models for
Low-Resource Languages", 2025, arXiv 2508.09091; the norm is ours, as an option of ELMo's scalar mix (Peters et al., 2018,
arXiv 1802.05365) has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional
from transformers import PretrainedConfig

from mtllm_ds.errors import UserError


class LayerMix(nn.Module):
    """Trained weights of K layers: `logits` (K,), the same on every rank."""

    def __init__(self, num_layers: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_layers, dtype=dtype))

    def forward(self, layers: Any) -> Any:
        """Mixed states (B, S, D) of K tensors of that shape; of a list of such (buckets) a list, in one call."""
        weights = self.logits.float().softmax(0)
        if isinstance(layers, list):
            return [_mixed(weights, bucket) for bucket in layers]
        return _mixed(weights, layers)


def layers_read(layers: Literal["last", "all"] | Sequence[int], config: PretrainedConfig) -> tuple[int, ...]:
    """The layers whose states are mixed, by number; none where the encoder's final states are read alone.

    Raises:
        UserError: the encoder of that config has fewer.
    """
    if layers == "last":
        return ()
    last = int(config.num_hidden_layers)
    if layers == "all":
        return tuple(range(last + 1))
    if beyond := [layer for layer in layers if layer > last]:
        raise UserError(
            f"model.connector.layers={list(layers)}: there is no layer {beyond[0]} in this {config.model_type} encoder, whose "
            f"final states are those of layer {last}; name layers from 0 (embeddings) to {last}"
        )
    return tuple(layers)


def normalised(states: torch.Tensor) -> torch.Tensor:
    """(..., D) of mean 0 and variance 1 over the last dimension, in the dtype of `states`."""
    return functional.layer_norm(states.float(), states.shape[-1:]).to(states.dtype)


def _mixed(weights: torch.Tensor, layers: Sequence[torch.Tensor]) -> torch.Tensor:
    total = sum(weight * states.float() for weight, states in zip(weights, layers, strict=True))
    assert isinstance(total, torch.Tensor)
    return total.to(layers[0].dtype)
