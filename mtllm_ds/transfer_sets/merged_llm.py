"""An adapted LLM as an ordinary Hugging Face folder: LoRA merged into the weights, tokenizer beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mtllm_ds import atomic
from mtllm_ds.checkpoint.model_card import language_model_card, merged_card
from mtllm_ds.checkpoint.trained import Trained, read_trained
from mtllm_ds.config.sections import ModelSettings
from mtllm_ds.data.shards.manifest import ChatEntry
from mtllm_ds.data.text.tokenization import TokenizerSpec, pretrained_tokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.models.build import load_reader, located, merged
from mtllm_ds.models.generation import end_ids, generation_settings
from mtllm_ds.models.lm_head import load_output_head
from mtllm_ds.transfer_sets.hugging_face_folder import check_replaceable, new_hugging_face_folder
from mtllm_ds.transfer_sets.language_model import with_head


def write_merged(place: str | Path, output: Path, dtype: torch.dtype = torch.float32) -> Trained:
    """Write the LLM of a run or export of `model.reader=llm`, with LoRA merged, in `dtype`; `model.llm.name` can name the folder.

    One that learnt dialogues is whole, with its base's head, its chat template and the token that ends its turns: transformers
    writes with it. Of others the head is left out, as what is used are the final states, pooled; their config says
    `is_causal: false` where they attend in both directions. Returns what was merged.

    Raises:
        UserError: it is no such model, or what is at `output` is not ours; an older one of ours gives way.
    """
    trained = read_trained(place, "run")
    if trained.model.reader != "llm":
        raise UserError(
            f"run={place}: its reader is {trained.model.reader}; only an LLM (model.reader=llm) can be merged"
        )
    check_replaceable(output)
    model = located(trained.model, trained.bases, str(place), {})
    reader: Any = load_reader(model, trained.weights, torch.device("cpu"), torch.float32)
    llm, chat = model.given_llm, trained.chat
    whole: Any = merged(reader.llm, model) if chat is None else _writing(reader, model, chat)
    tokenizer = pretrained_tokenizer(
        TokenizerSpec(name=llm.name, revision=llm.revision, side="llm", trust_remote_code=llm.trust_remote_code)
    )
    if chat is not None and chat.template is not None:
        tokenizer.chat_template = chat.template
    with new_hugging_face_folder(output, trained.step) as temporary:
        whole.to(dtype).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        card = merged_card(trained) if chat is None else language_model_card(trained, type(whole).__name__)
        atomic.write_text(temporary / "README.md", card)
    return trained


def _writing(reader: Any, model: ModelSettings, chat: ChatEntry) -> Any:
    """The LLM with its base's head; it ends where a turn ends."""
    llm = model.given_llm
    head = load_output_head(llm, reader, torch.float32)
    whole = with_head(llm, merged(reader.llm, model), dict(head.named_parameters()))
    whole.generation_config = generation_settings(llm, whole.base_model)
    whole.generation_config.eos_token_id = end_ids(whole, [chat.end_id])
    return whole
