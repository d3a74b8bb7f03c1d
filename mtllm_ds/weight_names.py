"""Every name that a trained weight goes by, once.

A model knows its tensors by its *own names*: `connector.weight`, `llm.base_model.model.layers.0....lora_A.default.weight`,
`llm.layers.0....weight` or `encoder.model....weight` where base weights train, `centring.means`, `layer_mix.logits`. The objective
puts `student.` before them and calls its head `head.`; checkpoints of version 0.1 said `stack.` or `reader.`. LoRA that trains is
PEFT's adapter `default`; a first adapter that a run froze is `start`, its B already multiplied by its scale. The head of a language
model that trains is `lm_head.`, without the matrix where that is the one of the input embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")

CONNECTOR, CENTRING, HEAD = "connector.", "centring.", "head."
LAYER_MIX = "layer_mix."
ENCODER = "encoder."
LM_HEAD, HEAD_TRANSFORM = "lm_head.", "transform."
_OF_THE_OBJECTIVE = ("student.", "stack.", "reader.")
START = "start"
_FROZEN, _TRAINED = f".{START}.", ".default."


def own_name(name: str) -> str:
    """A checkpoint's or an objective's name as the model itself says it; a head keeps its `head.`."""
    for prefix in _OF_THE_OBJECTIVE:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def is_head(name: str) -> bool:
    return name.startswith(HEAD)


def is_lm_head(name: str) -> bool:
    return name.startswith(LM_HEAD)


def is_lora(name: str) -> bool:
    return ".lora_" in name


def is_frozen_lora(name: str) -> bool:
    return is_lora(name) and _FROZEN in name


def is_addition(name: str) -> bool:
    """Whether a model's tensor is of no base model."""
    return name.startswith((CONNECTOR, LAYER_MIX, CENTRING)) or is_lora(name)


def trains_with_connector(name: str) -> bool:
    """Whether a model's or an objective's tensor is of the connector, or of what stands before it."""
    return any(f".{prefix}" in f".{name}" for prefix in (CONNECTOR, LAYER_MIX))


def is_of_encoder(name: str) -> bool:
    """Whether a model's or an objective's tensor is of its encoder."""
    return own_name(name).startswith(ENCODER)


def as_frozen(name: str) -> str:
    """The name that a trained adapter's tensor has once it is frozen."""
    return name.replace(_TRAINED, _FROZEN)


def in_adapter_file(name: str) -> str:
    """The name in PEFT's own file, which starts at the adapted model and names no adapter."""
    return name.split(".", 1)[1].replace(_TRAINED, ".")


def from_adapter_file(name: str, side: str) -> str:
    """The own name of a tensor of PEFT's file, in a model that adapts its `side`."""
    return f"{side}.{name.removesuffix('.weight')}{_TRAINED}weight"


def part(weights: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """What stands below a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
