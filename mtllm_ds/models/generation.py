"""An LLM that was loaded without its head, put together again as transformers' causal class of its family: what `generate` runs on.

Body and head are the ones at hand, LoRA in place; nothing is copied or read again. The cache, sampling, beams and streamers are
transformers' own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from mtllm_ds.config.names import resolve_model_name
from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.errors import UserError
from mtllm_ds.models.head_parts import head_class
from mtllm_ds.models.lm_head import OutputHead
from mtllm_ds.models.quiet import quiet_transformers
from mtllm_ds.models.readers import Reader, base_of
from mtllm_ds.models.weightless import is_weightless


def causal_model(
    settings: LLMSettings,
    reader: Reader,
    head: OutputHead,
    around_forward: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Any:
    """The causal language model of a reader's LLM, in evaluation mode of its own; `around_forward` is entered for every forward.

    Raises:
        UserError: the LLM attends both ways, or transformers has no causal class for it.
    """
    body = base_of(reader.trained_model)
    require_causal(settings)
    with torch.device("meta"), quiet_transformers():
        model: Any = head_class(settings, body.config)(body.config)
    _put(model, body)
    matrix = model.get_output_embeddings()
    matrix.weight = head.weight
    if head.bias is not None:
        matrix.bias = head.bias
    tensors = (*model.named_parameters(), *model.named_buffers())
    left = [name for name, tensor in tensors if tensor.is_meta and not is_weightless()]
    if left or not isinstance(head.transform, nn.Identity):
        raise UserError(
            f"model.llm.name={settings.name}: a {body.config.model_type} model has parts beside its matrix that are not known here"
            f"{f' ({left[0]})' if left else ''}, so it cannot write; name another"
        )
    model.training = False
    model.generation_config = generation_settings(settings, body)
    forward = model.forward

    @functools.wraps(forward)  # transformers reads its signature
    def taking_turns(*args: Any, **kwargs: Any) -> Any:
        with around_forward():
            return forward(*args, **kwargs)

    model.forward = taking_turns
    return model


def require_causal(settings: LLMSettings) -> None:
    """Refuse an LLM that attends both ways: it cannot write."""
    if settings.bidirectional:
        raise UserError(
            f"model.llm.bidirectional=true: {settings.name} attends both ways here, so it cannot write; "
            "train a model with model.llm.bidirectional=false"
        )


def left_padded(embeddings: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that end together, as what is written goes on from their last token: (B, S, D) and (B, S) int64, padded anywhere ->
    the same shapes, zeros in front. A row without any token keeps its last place, so that its attention has something to see."""
    order = mask.argsort(dim=1, stable=True)
    moved = embeddings.gather(1, order[..., None].expand_as(embeddings))
    kept = mask.gather(1, order)
    moved = moved.masked_fill(~kept.bool()[..., None], 0.0)
    kept[:, -1] = 1
    return moved, kept


def end_ids(model: Any, more: Iterable[int] = ()) -> list[int]:
    """Tokens that end what a causal model writes: those of its generation settings and `more`."""
    own = model.generation_config.eos_token_id
    return sorted({*([] if own is None else [own] if isinstance(own, int) else own), *more})


def _put(model: Any, body: Any) -> None:
    """The body in the place of the empty one of its class."""
    place = next((name for name, part in model.named_modules() if type(part) is type(body)), None)
    assert place, f"{type(model).__name__} holds no {type(body).__name__}"
    owner, _, leaf = place.rpartition(".")
    setattr(model.get_submodule(owner), leaf, body)


def generation_settings(settings: LLMSettings, body: Any) -> GenerationConfig:
    """What lies beside the LLM's weights, or what its configuration says."""
    with quiet_transformers():
        try:
            found = GenerationConfig.from_pretrained(
                resolve_model_name(settings.name), revision=settings.revision or "main"
            )
        except (OSError, ValueError):
            found = GenerationConfig.from_model_config(body.config)
    found.use_cache = True
    return found
