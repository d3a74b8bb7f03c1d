"""Base models of the right shape without their weights: tensors on the `meta` device, made from `config.json` alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

_INSIDE = ContextVar("weightless", default=False)
_CHECKPOINT_ONLY = ("key_mapping", "revision", "config")
"""Options of `from_pretrained` that say where weights come from."""


@contextmanager
def weightless() -> Iterator[None]:
    """Inside, `models.loading` reads no weight: what runs on paper (`mtllm_ds.planning`) costs no memory."""
    token = _INSIDE.set(True)
    try:
        yield
    finally:
        _INSIDE.reset(token)


def is_weightless() -> bool:
    """Whether base models are to be made without weights."""
    return _INSIDE.get()


def empty_model(model_class: Any, config: PretrainedConfig, **options: Any) -> PreTrainedModel:
    """A frozen model on `meta`, as `model_class.from_pretrained(..., config=config, **options)` would give it."""
    kept = {name: value for name, value in options.items() if name not in _CHECKPOINT_ONLY}
    make = model_class.from_config if issubclass(model_class, AutoModel) else model_class._from_config
    if not issubclass(model_class, AutoModel):
        kept.pop("trust_remote_code", None)
    with torch.device("meta"):
        model: PreTrainedModel = make(config, **kept)
    return model.requires_grad_(False)
