"""Every family of encoder that is tested: tiny, saved as its published class, with its own class of tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

from tests.fixtures import tokenizers

_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 500,
}
_T5 = {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 64, "vocab_size": 500}
_M2M100 = {
    "vocab_size": 500, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
}  # fmt: skip
_GEMMA = {**_SIZES, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16}
_VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
_BOUNDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@dataclass(frozen=True)
class EncoderFamily:
    """What is published under one name."""

    title: str
    whole_class: str
    config: Callable[[], Any]
    save_tokenizer: Callable[[Path], Path]
    tokenizer_family: str
    template: str
    """What stands around one text."""
    encoder_of: Callable[[Any], Any] = lambda whole: whole.base_model
    note: str = ""

    def whole(self) -> Any:
        torch.manual_seed(0)
        return self._class()(self.config()).eval()

    def _class(self) -> Any:
        return M2M100Encoder if self.whole_class == "M2M100Encoder" else getattr(transformers, self.whole_class)

    def save(self, folder: Path) -> Path:
        """Weights in safetensors and tokenizer in `folder`."""
        self.save_tokenizer(folder)
        self.whole().save_pretrained(folder)
        return folder


def _config(name: str, **settings: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, f"{name}Config")(**settings)


def _encoder(whole: Any) -> Any:
    return whole.get_encoder()


def _t5gemma2() -> Any:
    return transformers.T5Gemma2Config(
        encoder={"text_config": {**_GEMMA, "num_hidden_layers": 6}, "vision_config": _VISION, "mm_tokens_per_image": 4},
        decoder={**_GEMMA, "num_hidden_layers": 6},
        eoi_token_index=499,
        image_token_index=498,
    )


_T5_TEMPLATE, _NLLB, _XLM_R, _BERT = "A </s>", "[src] A </s>", "<s> A </s>", "[CLS] A [SEP]"
ENCODERS = {
    family.title: family
    for family in (
        EncoderFamily(
            "NLLB",
            "M2M100ForConditionalGeneration",
            _config("M2M100", **_M2M100),
            tokenizers.save_nllb_tokenizer,
            "nllb",
            _NLLB,
            _encoder,
        ),
        EncoderFamily(
            "M2M100",
            "M2M100ForConditionalGeneration",
            _config("M2M100", **_M2M100),
            tokenizers.save_m2m100_tokenizer,
            "m2m100",
            _NLLB,
            _encoder,
        ),
        EncoderFamily(
            "SONAR text",
            "M2M100Encoder",
            _config("M2M100", **_M2M100),
            tokenizers.save_nllb_tokenizer,
            "nllb",
            _NLLB,
            lambda whole: whole,
            note="published without a decoder",
        ),
        EncoderFamily(
            "T5, MADLAD",
            "T5ForConditionalGeneration",
            _config("T5", **_T5),
            tokenizers.save_t5_tokenizer,
            "t5",
            _T5_TEMPLATE,
            _encoder,
        ),
        EncoderFamily(
            "mT5",
            "MT5ForConditionalGeneration",
            _config("MT5", **_T5),
            tokenizers.save_t5_tokenizer,
            "t5",
            _T5_TEMPLATE,
            _encoder,
        ),
        EncoderFamily(
            "umT5",
            "UMT5ForConditionalGeneration",
            _config("UMT5", **_T5),
            tokenizers.save_t5_tokenizer,
            "t5",
            _T5_TEMPLATE,
            _encoder,
        ),
        EncoderFamily(
            "T5Gemma",
            "T5GemmaForConditionalGeneration",
            lambda: transformers.T5GemmaConfig(encoder=_GEMMA, decoder=_GEMMA),
            tokenizers.save_gemma_tokenizer,
            "own",
            "<bos> A",
            _encoder,
        ),
        EncoderFamily(
            "T5Gemma 2",
            "T5Gemma2ForConditionalGeneration",
            _t5gemma2,
            tokenizers.save_gemma_tokenizer,
            "own",
            "<bos> A",
            _encoder,
            note="multimodal: the text part alone is loaded",
        ),
        EncoderFamily(
            "XLM-R, multilingual E5",
            "XLMRobertaForMaskedLM",
            _config("XLMRoberta", **_SIZES),
            tokenizers.save_xlm_r_tokenizer,
            "xlm-r",
            _XLM_R,
        ),
        EncoderFamily(
            "BERT, LaBSE", "BertForMaskedLM", _config("Bert", **_SIZES), tokenizers.save_bert_tokenizer, "bert", _BERT
        ),
        EncoderFamily(
            "ModernBERT",
            "ModernBertForMaskedLM",
            _config("ModernBert", **_SIZES, **_BOUNDS, cls_token_id=1, sep_token_id=2),
            lambda folder: tokenizers.save_templated_tokenizer(folder, "[CLS]", "[SEP]"),
            "own",
            _BERT,
        ),
        EncoderFamily(
            "mmBERT",
            "ModernBertForMaskedLM",
            _config("ModernBert", **_SIZES, **_BOUNDS, cls_token_id=1, sep_token_id=2),
            lambda folder: tokenizers.save_gemma_tokenizer(folder, ends=True),
            "own",
            "<bos> A <eos>",
            note="ModernBERT with Gemma's tokenizer",
        ),
        EncoderFamily(
            "EuroBERT",
            "EuroBertForMaskedLM",
            _config("EuroBert", **_SIZES, **_BOUNDS, mask_token_id=3, num_key_value_heads=2),
            lambda folder: tokenizers.save_templated_tokenizer(folder, "<|begin_of_text|>", "<|end_of_text|>"),
            "own",
            "<|begin_of_text|> A <|end_of_text|>",
        ),
        EncoderFamily(
            "GTE multilingual",
            "GteForMaskedLM",
            _config("Gte", **_SIZES),
            tokenizers.save_xlm_r_tokenizer,
            "xlm-r",
            _XLM_R,
            note="checkpoints with code of their own (`new`) want `trust_remote_code`",
        ),
    )
}
