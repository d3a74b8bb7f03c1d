"""Dropout of base models: none of their own, and the one place that SimCSE turns on again."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

_PLACES = ("attention_dropout", "attn_dropout", "attn_dropout_p", "dropout")


def switch_off_dropout(model: PreTrainedModel) -> None:
    """Set every probability of dropout and layerdrop to zero: of modules, of functions, and of functions that ask the config.

    A frozen model's own dropout would only be noise between student and teacher, and layerdrop would desynchronise ranks. LoRA has
    its own, SimCSE sets one.
    """
    for owner in (model.config, *model.modules()):
        if isinstance(owner, nn.Dropout):
            owner.p = 0.0
        for name, value in list(vars(owner).items()):
            if "drop" in name and isinstance(value, float):
                setattr(owner, name, 0.0)


def set_attention_dropout(model: nn.Module, probability: float) -> int:
    """Set the dropout of attention weights; returns how many modules have one, though some take no notice of it."""
    found = 0
    for module in model.modules():
        place = next((name for name in _PLACES if hasattr(module, name)), None)
        if place is None or not type(module).__name__.endswith("Attention"):
            continue
        chance = getattr(module, place)
        if isinstance(chance, nn.Dropout):
            chance.p = probability
        elif isinstance(chance, float | int):
            setattr(module, place, probability)
        else:
            continue
        found += 1
    return found
