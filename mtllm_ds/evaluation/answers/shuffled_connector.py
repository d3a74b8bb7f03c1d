"""A control: the connector's output features are permuted, so that the LLM reads well-formed vectors that mean nothing.

If accuracy survives that, the LLM is not what the score comes from.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from mtllm_ds.errors import UserError


def shuffle_connector(reader: nn.Module, seed: int = 0) -> RemovableHandle:
    """From now on the connector of a stacked reader gives its last dimension permuted, always alike; `.remove()` ends it.

    Raises `UserError` if the reader has no connector.
    """
    connector = getattr(reader, "connector", None)
    if connector is None:
        raise UserError(
            "--control=shuffled_connector: this model has no connector; ask a stacked model, or leave the control out"
        )

    def permute(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        order = torch.randperm(output.shape[-1], generator=torch.Generator().manual_seed(seed))
        return output[..., order.to(output.device)]

    return connector.register_forward_hook(permute)
