"""An adapted LLM as an ordinary Hugging Face folder: LoRA merged into the weights, tokenizer beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mtllm_ds import atomic
from mtllm_ds.checkpoint.model_card import merged_card
from mtllm_ds.checkpoint.trained import Trained, read_trained
from mtllm_ds.data.text.tokenization import TokenizerSpec, pretrained_tokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.models.build import load_reader, located
from mtllm_ds.transfer_sets.hugging_face_folder import check_replaceable, new_hugging_face_folder


def write_merged(place: str | Path, output: Path, dtype: torch.dtype = torch.float32) -> Trained:
    """Write the LLM of a run or export of `model.reader=llm`, with LoRA merged, in `dtype`; `model.llm.name` can name the folder.

    Its config says `is_causal: false` where it attends in both directions. The language-model head is left out: what is
    used are the final states, pooled. Returns what was merged.

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
    tuned = reader.llm.merge_and_unload() if model.trainable == "lora" else reader.llm
    merged, llm = tuned.to(dtype), model.given_llm
    tokenizer = pretrained_tokenizer(
        TokenizerSpec(name=llm.name, revision=llm.revision, side="llm", trust_remote_code=llm.trust_remote_code)
    )
    with new_hugging_face_folder(output, trained.step) as temporary:
        merged.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        atomic.write_text(temporary / "README.md", merged_card(trained))
    return trained
