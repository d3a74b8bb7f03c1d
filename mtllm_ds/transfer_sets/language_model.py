"""A language model with its head, as an ordinary Hugging Face folder that transformers loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from mtllm_ds import atomic
from mtllm_ds.checkpoint.model import Trained
from mtllm_ds.checkpoint.model_card import language_model_card
from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.data.text.tokenization import TokenizerSpec, pretrained_tokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.models.build import load_reader, located, merged
from mtllm_ds.models.head_parts import entrance, head_class
from mtllm_ds.models.loading import llm_config
from mtllm_ds.models.quiet import quiet_transformers
from mtllm_ds.transfer_sets.hugging_face_folder import check_replaceable, new_hugging_face_folder
from mtllm_ds.weight_names import HEAD_TRANSFORM


def write_language_model(trained: Trained, output: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a model that trained with its head, LoRA merged, in `dtype`, with tokenizer and card; an older one of ours
    gives way, and anything else there is a `UserError`."""
    check_replaceable(output)
    model = _with_weights(trained, located(trained.model, trained.bases, str(trained.place), {})).to(dtype)
    llm = trained.model.given_llm
    tokenizer = pretrained_tokenizer(
        TokenizerSpec(name=llm.name, revision=llm.revision, side="llm", trust_remote_code=llm.trust_remote_code)
    )
    transformers_logging.disable_progress_bar()
    with new_hugging_face_folder(output, trained.step) as temporary, quiet_transformers():
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        atomic.write_text(temporary / "README.md", language_model_card(trained, type(model).__name__))


def _with_weights(trained: Trained, settings: Any) -> Any:
    """The whole model in float32."""
    reader: Any = load_reader(settings, trained.weights, torch.device("cpu"), torch.float32)
    return with_head(settings.given_llm, merged(reader.llm, settings), trained.lm_head or {})


def with_head(llm: LLMSettings, body: Any, head: Mapping[str, torch.Tensor]) -> Any:
    """transformers' own model of an LLM's family in float32, from its body and the tensors of its head by the names that
    `OutputHead` has for them; a matrix that is tied to the input embeddings may be left out."""
    config = llm_config(llm)
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        whole: Any = head_class(llm, config)(config)
    if type(whole.base_model) is not type(body):
        raise UserError(
            f"model.llm.name={llm.name}: its {type(whole).__name__} holds more than text, so that no whole folder can be written; "
            "use the export"
        )
    whole.base_model.load_state_dict(body.state_dict())
    _put_head(whole, head)
    return whole.eval()


@torch.no_grad()
def _put_head(model: Any, head: Mapping[str, torch.Tensor]) -> None:
    """Copy a head's tensors into a model's own."""
    matrix = model.get_output_embeddings()
    transform = dict(entrance(model).named_parameters())
    for name, value in head.items():
        is_inside = name.startswith(HEAD_TRANSFORM)
        place = transform[name.removeprefix(HEAD_TRANSFORM)] if is_inside else getattr(matrix, name)
        place.copy_(value)
