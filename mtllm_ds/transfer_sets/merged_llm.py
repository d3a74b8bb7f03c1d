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


def write_merged(place: str | Path, output: Path, dtype: torch.dtype = torch.float32) -> Trained:
    """Write the LLM of a run or export of `model.reader=llm`, with LoRA merged, in `dtype`; `model.llm.name` can name the folder.

    Its config says `is_causal: false` where it attends in both directions. The language-model head is left out: what is
    used are the final states, pooled. Returns what was merged.

    Raises:
        UserError: it is no such model, or `output` exists.
    """
    trained = read_trained(place, "run")
    if trained.model.reader != "llm":
        raise UserError(
            f"run={place}: its reader is {trained.model.reader}; only an LLM (model.reader=llm) can be merged"
        )
    if output.exists():
        raise UserError(f"output {output}: exists; choose another folder")
    model = located(trained.model, trained.bases, str(place), {})
    reader: Any = load_reader(model, trained.weights, torch.device("cpu"), torch.float32)
    tuned = reader.llm.merge_and_unload() if model.trainable == "lora" else reader.llm
    merged, llm = tuned.to(dtype), model.given_llm
    tokenizer = pretrained_tokenizer(
        TokenizerSpec(name=llm.name, revision=llm.revision, side="llm", trust_remote_code=llm.trust_remote_code)
    )
    with atomic.new_folder(output) as temporary:
        merged.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        atomic.write_text(temporary / "README.md", merged_card(trained))
    return trained
