"""Every family of LLM that is tested: tiny, with random weights, saved as the class that its checkpoints are published in."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

_COMMON = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
_PLAIN = {**_COMMON, "num_hidden_layers": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0}
_HEADS = {**_PLAIN, "head_dim": 8}
_ENCODER = {**_COMMON, "num_hidden_layers": 2, "max_position_embeddings": 64, "pad_token_id": 0}
_LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
_EXPERTS = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
}  # fmt: skip
_VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
_QWEN_VISION = {
    "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32, "num_position_embeddings": 16,
}  # fmt: skip
_LLAMA4 = {
    **_HEADS,
    "intermediate_size_mlp": 48,
    "num_hidden_layers": 4,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
}
_LLAMA4_VISION = {
    **_VISION, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16, "pixel_shuffle_ratio": 0.5,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """What is published under one name."""

    title: str
    whole_class: str
    """Class of the published checkpoints."""
    config_class: str
    settings: dict[str, Any]
    refused: str = ""
    """What `bidirectional=true` is refused with; empty where it is true."""
    note: str = ""

    def whole(self) -> Any:
        """The published kind of model, tiny; weights large enough that tokens move each other."""
        torch.manual_seed(0)
        config = getattr(transformers, self.config_class)(**copy.deepcopy(self.settings))
        model = getattr(transformers, self.whole_class)(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.1)
        return model.eval()

    def with_vocabulary(self, size: int) -> Family:
        """The same family with so many tokens."""
        return replace(self, settings=_with_vocabulary(self.settings, size))

    def save(self, folder: Path) -> Path:
        """Written to `folder` in safetensors."""
        self.whole().save_pretrained(folder)
        return folder


def _with_vocabulary(settings: dict[str, Any], size: int) -> dict[str, Any]:
    found = {k: _with_vocabulary(v, size) if isinstance(v, dict) else v for k, v in settings.items()}
    return {key: size if key == "vocab_size" else value for key, value in found.items()}


def _llm(title: str, name: str, settings: dict[str, Any], refused: str = "", note: str = "") -> Family:
    return Family(title, f"{name}ForCausalLM", f"{name}Config", settings, refused, note)


def _encoder(title: str, name: str, **settings: Any) -> Family:
    return Family(
        title, f"{name}ForMaskedLM", f"{name}Config", {**_ENCODER, **settings}, note="an encoder: always both ways"
    )


_TEXT_ONLY = "multimodal checkpoint: the text model alone is kept"
LLMS = {
    family.title: family
    for family in (
        _llm("Llama 2, 3", "Llama", _PLAIN),
        Family(
            "Llama 4",
            "Llama4ForConditionalGeneration",
            "Llama4Config",
            {"text_config": _LLAMA4, "vision_config": _LLAMA4_VISION, "image_token_index": 59},
            refused="its Llama4TextAttention look back only",
            note=f"{_TEXT_ONLY}; padded rows keep a causal mask in its chunked layers",
        ),
        _llm("Qwen 2, 2.5", "Qwen2", _PLAIN),
        _llm("Qwen 3", "Qwen3", _HEADS),
        _llm("Qwen 3 MoE", "Qwen3Moe", {**_HEADS, **_EXPERTS}),
        _llm(
            "Qwen3-Next",
            "Qwen3Next",
            {**_HEADS, **_LINEAR, **_EXPERTS, "num_hidden_layers": 4},
            refused="its Qwen3NextGatedDeltaNet look back only",
            note="three of four layers are recurrent",
        ),
        Family(
            "Qwen 3.5",
            "Qwen3_5ForConditionalGeneration",
            "Qwen3_5Config",
            {"text_config": {**_HEADS, **_LINEAR, "num_hidden_layers": 4}, "vision_config": _QWEN_VISION},
            refused="its Qwen3_5GatedDeltaNet look back only",
            note=f"{_TEXT_ONLY}; three of four layers are recurrent",
        ),
        _llm("Mistral", "Mistral", _HEADS),
        Family(
            "Mistral Small 3",
            "Mistral3ForConditionalGeneration",
            "Mistral3Config",
            {
                "text_config": {**_HEADS, "model_type": "mistral"},
                "image_token_index": 59,
                "vision_config": {**_VISION, "model_type": "pixtral", "head_dim": 8},
            },
            note=_TEXT_ONLY,
        ),
        _llm("Ministral 3", "Ministral3", _HEADS),
        _llm("Mixtral", "Mixtral", {**_PLAIN, "num_local_experts": 2}),
        _llm("Gemma 1", "Gemma", _HEADS),
        _llm("Gemma 2", "Gemma2", {**_HEADS, "sliding_window": 32}),
        Family(
            "Gemma 3 text",
            "Gemma3ForCausalLM",
            "Gemma3TextConfig",
            {**_HEADS, "num_hidden_layers": 7, "sliding_window": 32},
        ),
        Family(
            "Gemma 3",
            "Gemma3ForConditionalGeneration",
            "Gemma3Config",
            {
                "text_config": {**_HEADS, "num_hidden_layers": 7, "sliding_window": 32},
                "image_token_index": 59,
                "vision_config": _VISION,
                "mm_tokens_per_image": 4,
            },
            note=_TEXT_ONLY,
        ),
        Family(
            "Gemma 4",
            "Gemma4ForConditionalGeneration",
            "Gemma4Config",
            {
                "text_config": {
                    **_HEADS,
                    "num_hidden_layers": 6,
                    "hidden_size_per_layer_input": 0,
                    "sliding_window": 32,
                },
                "vision_config": {**_VISION, "head_dim": 8, "num_key_value_heads": 2},
                "audio_config": None,
                "image_token_id": 59,
                "video_token_id": 58,
                "audio_token_id": 57,
            },
            note=_TEXT_ONLY,
        ),
        Family(
            "Gemma 4 E2B, E4B",
            "Gemma4ForConditionalGeneration",
            "Gemma4Config",
            {
                "text_config": {
                    **_HEADS,
                    "num_hidden_layers": 6,
                    "hidden_size_per_layer_input": 8,
                    "vocab_size_per_layer_input": 60,
                    "sliding_window": 32,
                },
                "vision_config": {**_VISION, "head_dim": 8, "num_key_value_heads": 2},
                "audio_config": None,
                "image_token_id": 59,
                "video_token_id": 58,
                "audio_token_id": 57,
            },
            note=f"{_TEXT_ONLY}; its layers look up ids of their own, so it cannot be stacked",
        ),
        _llm("OLMo 2", "Olmo2", _PLAIN),
        _llm("OLMo 3", "Olmo3", {**_PLAIN, "num_hidden_layers": 4, "sliding_window": 32}),
        _llm(
            "Olmo-Hybrid",
            "OlmoHybrid",
            {**_PLAIN, **_LINEAR, "num_hidden_layers": 4},
            refused="its OlmoHybridGatedDeltaNet look back only",
            note="three of four layers are recurrent",
        ),
        _llm("Apertus", "Apertus", _PLAIN),
        _llm("SmolLM3", "SmolLM3", _PLAIN),
        _llm("Phi 3", "Phi3", {**_PLAIN, "pad_token_id": 0}),
        _llm("GPT-OSS", "GptOss", {**_HEADS, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 32}),
        _llm(
            "LFM2",
            "Lfm2",
            {**_PLAIN, "layer_types": ["conv", "full_attention"]},
            refused="its Lfm2ShortConv look back only",
            note="most layers are short causal convolutions",
        ),
        _llm(
            "OPT",
            "OPT",
            {
                **_COMMON,
                "ffn_dim": 48,
                "word_embed_proj_dim": 16,
                "num_hidden_layers": 2,
                "max_position_embeddings": 64,
                "pad_token_id": 1,
            },
        ),
        _llm(
            "BLOOM",
            "Bloom",
            {
                "vocab_size": 60,
                "hidden_size": 32,
                "n_layer": 2,
                "n_head": 4,
                "hidden_dropout": 0.1,
                "attention_dropout": 0.1,
            },
        ),
        _llm("Falcon", "Falcon", {**_COMMON, "num_hidden_layers": 2, "hidden_dropout": 0.1, "attention_dropout": 0.1}),
        _llm(
            "XGLM",
            "XGLM",
            {
                "vocab_size": 60,
                "d_model": 32,
                "ffn_dim": 48,
                "num_layers": 2,
                "attention_heads": 4,
                "max_position_embeddings": 64,
            },
        ),
        _llm("GPT-NeoX, Pythia", "GPTNeoX", {**_ENCODER, "hidden_dropout": 0.1, "attention_dropout": 0.1}),
        Family(
            "GPT-2",
            "GPT2LMHeadModel",
            "GPT2Config",
            {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
        ),
        _llm(
            "GPT-Neo",
            "GPTNeo",
            {
                "vocab_size": 60,
                "hidden_size": 32,
                "num_layers": 2,
                "num_heads": 4,
                "attention_types": [[["global", "local"], 1]],
                "max_position_embeddings": 64,
            },
            refused="its GPTNeoSelfAttention look back only",
            note="builds a causal mask of its own",
        ),
        _llm(
            "MPT",
            "Mpt",
            {"vocab_size": 60, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
            refused=r"cannot look both ways \(AttributeError",
            note="its forward fails without a causal mask",
        ),
        _encoder("BERT", "Bert"),
        _encoder("RoBERTa", "Roberta", type_vocab_size=1, pad_token_id=1, max_position_embeddings=66),
        _encoder("XLM-R", "XLMRoberta", type_vocab_size=1, pad_token_id=1, max_position_embeddings=66),
        _encoder(
            "ModernBERT",
            "ModernBert",
            cls_token_id=1,
            sep_token_id=2,
            bos_token_id=1,
            eos_token_id=2,
            local_attention=32,
        ),
        _encoder("EuroBERT", "EuroBert", bos_token_id=1, eos_token_id=2, mask_token_id=3, num_key_value_heads=2),
    )
}
