"""What a language model's output head is made of, found through transformers itself, and read without the rest of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    PretrainedConfig,
    PreTrainedModel,
)

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.errors import UserError
from mtllm_ds.models.base_dropout import switch_off_dropout
from mtllm_ds.models.loading import load_weights
from mtllm_ds.models.text_models import looks_both_ways


@dataclass(frozen=True)
class HeadParts:
    """The parts of a head."""

    transform: nn.Module
    """What comes before the matrix: (..., D) -> (..., D)"""
    weight: nn.Parameter | None
    """(V, D); None where it is the matrix of the input embeddings"""
    bias: nn.Parameter | None
    """(V,)"""


def head_class(settings: LLMSettings, config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class that holds a model of this configuration with its language-model head, causal or masked.

    Raises:
        UserError: transformers knows none.
    """
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING and looks_both_ways(settings, config)
    multimodal = config.get_text_config() is not config
    for mapping in (
        *([MODEL_FOR_MASKED_LM_MAPPING] if masked else []),
        *([MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING] if multimodal else []),
        MODEL_FOR_CAUSAL_LM_MAPPING,
    ):
        if type(config) in mapping:
            found: Any = mapping[type(config)]
            return found
    raise UserError(
        f"model.llm.name={settings.name}: transformers knows no head of a {config.model_type} model; name another"
    )


def read_head(settings: LLMSettings, config: PretrainedConfig, dtype: torch.dtype) -> HeadParts:
    """The head that a checkpoint holds; of its files nothing else is read.

    Raises:
        UserError: it holds none.
    """
    lone = _without_body(head_class(settings, config))
    with torch.device("meta"):
        model: Any = lone(config)
    if model.state_dict():
        model = load_weights(
            lone,
            settings.name,
            "model.llm.name",
            mend="its weights hold no language-model head; name the language model itself",
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            dtype=dtype,
        )
        switch_off_dropout(model)
    return parts_of(model)


def parts_of(model: Any) -> HeadParts:
    """The parts of a model's head. They are taken out of the model, which is of no use afterwards."""
    matrix: Any = model.get_output_embeddings()
    transform = entrance(model)
    weight = None if isinstance(matrix, _Tied) else matrix.weight
    if transform is matrix:
        return HeadParts(nn.Identity(), weight, matrix.bias)
    owner, leaf = _place_of(model, matrix)
    if transform is owner:
        setattr(owner, leaf, nn.Identity())
        if getattr(owner, "bias", None) is not None:
            owner.bias = None  # the matrix's, by another name
    return HeadParts(transform, weight, matrix.bias)


def entrance(model: Any) -> Any:
    """The module that reads the final states: the matrix, what stands before that, or (BERT, RoBERTa) what holds both.

    Raises:
        UserError: several parts stand before the matrix, and which comes first nobody tells.
    """
    matrix = model.get_output_embeddings()
    owner, _ = _place_of(model, matrix)
    if not isinstance(owner, PreTrainedModel):
        return owner
    beside = [part for part in owner.children() if part is not matrix and not isinstance(part, PreTrainedModel)]
    before = [part for part in beside if any(True for _ in part.parameters())]
    if len(before) > 1:
        raise UserError(
            f"model.llm.name: the head of a {model.config.model_type} model has {len(before)} parts before its matrix; name another"
        )
    return before[0] if before else matrix


class _Tied(nn.Module):
    """Takes the place of a matrix that is the one of the input embeddings: the bias alone."""

    def __init__(self, matrix: Any) -> None:
        super().__init__()
        self.bias = matrix.bias
        self.weight = torch.empty(matrix.weight.shape[0], 0)  # no parameter: for transformers' looks at its length


def _without_body(model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The class of the same models, their head alone; without its matrix, where that is the one of the input embeddings."""

    def build(self: Any, config: PretrainedConfig) -> None:
        model_class.__init__(self, config)
        matrix, ties = model_class.get_output_embeddings(self), self.all_tied_weights_keys
        owner, leaf = _place_of(self, matrix)
        self.matrix_name = _name_of(self, matrix)
        _drop_body(self, self.matrix_name)
        if f"{self.matrix_name}.weight" in {*ties, *ties.values()}:
            setattr(owner, leaf, _Tied(matrix))
        left = self.state_dict()
        self.all_tied_weights_keys = {one: other for one, other in ties.items() if one in left and other in left}

    def matrix(self: Any) -> nn.Module:  # transformers' own asks the body first
        return self.get_submodule(self.matrix_name)

    # Under its own name transformers knows how to read its older checkpoints.
    own = {"__init__": build, "get_output_embeddings": matrix, "__module__": model_class.__module__}
    return type(model_class.__name__, (model_class,), own)


def _drop_body(model: Any, matrix: str) -> None:
    """Empty what is no part of the head, from the whole model down to the module that holds the matrix."""
    owner = model
    *path, leaf = matrix.split(".")
    for step in (*path, leaf):
        if isinstance(owner, PreTrainedModel):
            for name, part in list(owner.named_children()):
                # Beside the matrix stands what comes before it; above it, what belongs to other parts of the model.
                if name != step and (step != leaf or isinstance(part, PreTrainedModel)):
                    setattr(owner, name, nn.Module())
        owner = getattr(owner, step)


def _place_of(model: nn.Module, part: nn.Module) -> tuple[Any, str]:
    """The module that holds a part, and its name there."""
    owner, _, leaf = _name_of(model, part).rpartition(".")
    return model.get_submodule(owner), leaf


def _name_of(model: nn.Module, part: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is part)
