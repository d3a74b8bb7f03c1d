"""Do a model's layers work with 8-bit weights? Tried on the model's own class at toy size, bit for bit."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from mtllm_ds.errors import UserError
from mtllm_ds.models.base_dropout import switch_off_dropout
from mtllm_ds.models.int8_linear import Int8Linear, quantise_layers
from mtllm_ds.models.probe import small_model
from mtllm_ds.models.quiet import quiet_transformers

_IDS = ((5, 6, 7, 8, 9), (9, 3, 4, 0, 0))
"""0 is padding."""


def require_int8(model_class: type[PreTrainedModel], config: PretrainedConfig, bidirectional: bool) -> None:
    """Refuse a class of model that reads the weights of its linear layers other than by running them.

    Raises:
        UserError: its states or gradients are not those of the dequantised weights, or `quantise_layers` refuses it.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), quiet_transformers():
        torch.manual_seed(0)
        failure = _failure(model_class, config, bidirectional)
    if failure:
        raise UserError(
            f"model.llm.quantization=int8: the layers of this {config.model_type} model cannot have 8-bit weights ({failure}); "
            "set it to null"
        )


def _failure(model_class: type[PreTrainedModel], config: PretrainedConfig, bidirectional: bool) -> str:
    try:
        plain: Any = small_model(model_class, config, bidirectional).train().requires_grad_(False)
        switch_off_dropout(plain)
        quantised = copy.deepcopy(plain)
        quantise_layers(quantised)
        for name, part in quantised.named_modules():
            if isinstance(part, Int8Linear):
                plain.get_submodule(name).weight.data = part.plain().weight
        found, expected = _results(quantised), _results(plain)
    except UserError:
        raise
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return "" if all(map(torch.equal, found, expected)) else "its states or gradients come out otherwise"


def _results(model: Any) -> list[torch.Tensor]:
    """States, and the gradient of the input embeddings, which passes through all layers."""
    table = model.get_input_embeddings().requires_grad_()
    ids = torch.tensor(_IDS)
    states = model(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
    states.square().sum().backward()
    return [states.detach(), table.weight.grad]
