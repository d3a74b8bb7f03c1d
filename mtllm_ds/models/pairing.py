"""Can a teacher go through a model's layers beside the student? Tried on the model's own class at toy size, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from mtllm_ds.models.base_dropout import switch_off_dropout
from mtllm_ds.models.paired import PairedSweep
from mtllm_ds.models.probe import small_model
from mtllm_ds.models.quiet import quiet_transformers

_FIRST, _SECOND = ((5, 6, 7, 8, 9), (9, 3, 4, 0, 0)), ((3, 4, 5, 0), (6, 7, 8, 9))
"""Ids of either pass; 0 is padding."""


@dataclass(frozen=True)
class Pairing:
    """What was found of one class of model."""

    gives_tuples: bool = False
    """Whether its layers return their states as the first of a tuple."""
    failure: str = ""
    """Why two passes cannot go side by side; empty where they can."""


_found: dict[tuple[type, str, bool], Pairing] = {}


def pairing_of(model_class: type[PreTrainedModel], config: PretrainedConfig, bidirectional: bool) -> Pairing:
    """Whether states and gradients of two passes side by side are those of one after the other; once a process."""
    key = (model_class, config.to_json_string(use_diff=False), bidirectional)
    if key not in _found:
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), quiet_transformers():
            torch.manual_seed(0)
            _found[key] = _try(model_class, config, bidirectional)
    return _found[key]


def _try(model_class: type[PreTrainedModel], config: PretrainedConfig, bidirectional: bool) -> Pairing:
    try:
        model: Any = small_model(model_class, config, bidirectional).train()
        switch_off_dropout(model)
        apart = _results(model, lambda first, second: (first(), second()))
    except Exception as error:
        return Pairing(failure=_why(error))
    failure = ""
    for gives_tuples in (False, True):
        try:
            beside = _results(model, PairedSweep(model, gives_tuples=gives_tuples))
        except Exception as error:
            failure = failure or _why(error)
            continue
        if len(beside) == len(apart) and all(torch.equal(one, other) for one, other in zip(beside, apart, strict=True)):
            return Pairing(gives_tuples)
        failure = "its states or gradients come out otherwise"
    return Pairing(failure=failure)


def _results(model: Any, run: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    """States of a pass without gradients and of one with, and the gradients of a loss between them."""
    first, second = (torch.tensor(ids) for ids in (_FIRST, _SECOND))

    def states(ids: torch.Tensor) -> torch.Tensor:
        return model(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state

    told, given = run(torch.no_grad()(lambda: states(first)), torch.enable_grad()(lambda: states(second)))
    model.zero_grad()
    (given.mean(1) - told.mean(1)).square().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [told, given.detach(), *gradients]


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
