"""A model's configuration at toy size: every kind of layer it has, a few dozen numbers wide, for `probe.py`.

What decides which token sees which (kinds of layers, windows, chunks, position scheme, extra flags) stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig

VOCAB_SIZE = 128
_WIDTH, _HEADS = 64, 4
_SIZES = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCAB_SIZE),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "n_embed", "word_embed_proj_dim", "lru_width"), _WIDTH),
    **dict.fromkeys(("intermediate_size", "intermediate_size_mlp", "ffn_dim", "ffn_hidden_size", "n_inner"), _WIDTH),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("num_attention_heads", "attention_heads", "n_head", "n_heads", "num_heads"), _HEADS),
    **dict.fromkeys(("head_dim", "kv_channels", "rotary_dim", "hidden_size_per_layer_input"), 16),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_groups", "num_expert_group", "mamba_n_groups"), 1),
    **dict.fromkeys(("linear_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size"), 16),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 8),  # of a scan, whose result does not depend on it
    **dict.fromkeys(("mamba_head_dim", "mamba_headdim", "mamba_d_head"), 2 * _WIDTH // 8),
    **dict.fromkeys(("mamba_num_heads", "mamba_n_heads", "n_mamba_heads"), 8),
    **dict.fromkeys(("attention_hidden_size", "mamba_d_ssm"), 2 * _WIDTH),
    "attention_head_dim": 2 * _WIDTH // _HEADS, "linear_num_heads": 4, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "num_kv_shared_layers": 0,
}  # fmt: skip
_DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
_KINDS = ("layer_types", "layers_block_type")
_LEFT_OUT = ("dtype", "torch_dtype", "quantization_config")


def small_config(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration of a text model with its first layers up to one of every kind, narrow; a copy.

    Raises whatever the family's own checks raise where they want other proportions.
    """
    depth = int(config.num_hidden_layers)
    kept = _layers_with_every_kind(config, depth)
    values = {name: value for name, value in config.to_dict().items() if name not in _LEFT_OUT}
    return type(config).from_dict({name: _smaller(name, value, config, depth, kept) for name, value in values.items()})


def _smaller(name: str, value: Any, config: PretrainedConfig, depth: int, kept: int) -> Any:
    if name in _DEPTHS:
        return kept
    if name == "per_layer_config":  # layer -> settings of its own
        return {
            layer: {key: _smaller(key, own, config, depth, kept) for key, own in settings.items()}
            for layer, settings in value.items()
            if int(layer) < kept
        }
    if isinstance(value, Sequence) and len(value) == depth and not isinstance(value, str):
        return [_smaller(name, own, config, depth, kept) for own in value[:kept]]
    if name == "rope_parameters" and isinstance(value, Mapping):
        return _without_lists(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if name.endswith("key_value_heads"):
        return max(1, _HEADS * value // int(config.num_attention_heads))
    if name.endswith("token_id"):
        return value if value < VOCAB_SIZE else 0
    return _SIZES.get(name, value) if value > 1 else value  # 0 and 1 switch a part off, or share it


def _layers_with_every_kind(config: PretrainedConfig, depth: int) -> int:
    """How many first layers hold one of every kind, at least two where there are so many."""
    kinds = next((list(found) for name in _KINDS if (found := getattr(config, name, None))), [])
    return min(depth, max([2, *(1 + kinds.index(kind) for kind in set(kinds))]))


def _without_lists(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings, but plain where they hold a number for each pair of channels."""
    if any(isinstance(value, Mapping) for value in rope.values()):
        return {name: _without_lists(v) if isinstance(v, Mapping) else v for name, v in rope.items()}
    if not any(isinstance(value, Sequence) and not isinstance(value, str) for value in rope.values()):
        return dict(rope)
    plain = {name: rope[name] for name in ("rope_theta", "partial_rotary_factor") if name in rope}
    return {"rope_type": "default", **plain}
