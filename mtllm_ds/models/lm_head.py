"""The output head of a language model that was loaded without it: from final states to logits over the vocabulary."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from mtllm_ds.cluster.zero import gathered
from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.models.head_parts import read_head
from mtllm_ds.models.head_probe import probe_head
from mtllm_ds.models.loading import load_config
from mtllm_ds.models.readers import Reader
from mtllm_ds.observe.flops import note_rows


class OutputHead(nn.Module):
    """Frozen: logits = cap(scale * transform(state) W^T + bias), with cap(z) = c tanh(z / c) where there is a soft cap.

    Under ZeRO-3 the matrix is whole only inside the forward of a module that owns it: whoever needs it there without logits, as
    fused losses do, takes `weight` and `bias` as its own and gives them `prepared` states.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None = None,
        *,
        transform: nn.Module | None = None,
        scale: float = 1.0,
        softcap: float | None = None,
    ) -> None:
        """
        Args:
            weight, bias: (V, D), (V,)
            transform: what comes before the matrix: (..., D) -> (..., D); the dense layer and norm of masked language models
            scale: factor of the logits (Cohere, Granite)
            softcap: c (Gemma 2 and its kin)
        """
        super().__init__()
        self.transform = transform or nn.Identity()
        self.weight, self.bias = weight, bias
        self.scale, self.softcap = scale, softcap

    def prepared(self, states: torch.Tensor) -> torch.Tensor:
        """What the matrix reads: (..., D) -> (..., D), with gradients."""
        note_rows(self.transform, states[..., 0].numel())
        read = self.transform(states)
        return read if self.scale == 1.0 else read * self.scale

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Logits of final states: (..., D) -> (..., V)."""
        return capped(functional.linear(self.prepared(states), self.weight, self.bias), self.softcap)


def capped(logits: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """Logits below a soft cap."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def load_output_head(settings: LLMSettings, reader: Reader, dtype: torch.dtype) -> OutputHead:
    """The head of the LLM that a reader runs, frozen.

    Tied to the input embeddings it *is* their parameter, partitioned or not (a copy would cost a second matrix of the vocabulary);
    where they train, it is a copy. A head of its own is read, whole on this rank until an engine takes it.

    Raises:
        UserError: the checkpoint holds no head, or the family's does something that is not known here.
    """
    config = load_config(settings.name, settings.revision, settings.trust_remote_code, "model.llm.name")
    does = probe_head(settings, config)
    parts = read_head(settings, config, dtype)
    weight = _frozen_table(reader) if parts.weight is None else parts.weight
    head = OutputHead(weight, parts.bias, transform=parts.transform, scale=does.scale, softcap=does.softcap)
    return head.requires_grad_(False)


def _frozen_table(reader: Reader) -> nn.Parameter:
    table = reader.trained_model.get_input_embeddings().weight
    if not table.requires_grad:
        return table
    with gathered([table]):
        return nn.Parameter(table.detach().clone())
