"""The LLM on packed rows: several samples in one row, each at positions of its own, none seeing another."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PretrainedConfig

from mtllm_ds.data.stream.packing import PackedRows, block_diagonal_mask
from mtllm_ds.errors import UserError
from mtllm_ds.observe.flops import note_packed


def run_packed(model: Any, layout: PackedRows, **inputs: torch.Tensor) -> torch.Tensor:
    """Final states of `input_ids` (R, P) or `inputs_embeds` (R, P, D) in a packed layout: (R, P, D).

    With flash attention the samples go in end to end as one row of variable lengths; otherwise under an explicit
    block-diagonal mask.
    """
    if model.config._attn_implementation.startswith("flash"):
        return _run_variable_lengths(model, layout, **inputs)
    rows, width = layout.segment_ids.shape
    note_packed(model, (rows, width), layout.cu_seqlens)
    causal = bool(getattr(model.config, "is_causal", True))
    dtype = next(model.parameters()).dtype
    mask = block_diagonal_mask(layout.segment_ids, causal=causal, dtype=dtype)
    positions = layout.position_ids + first_position(model)
    return model(**inputs, position_ids=positions, attention_mask=mask).last_hidden_state


def first_position(model: Any) -> int:
    """The position of a text's first token: RoBERTa's and its kin count from their padding id on."""
    table: Any = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else padding + 1


def require_packing(config: PretrainedConfig, packs: bool, max_length: int) -> None:
    """Refuse a model whose states packing would change: some take no positions or masks, others have short windows."""
    where = "data.llm_tokens_per_cell: packing would"
    mend = "set data.samples_per_cell instead of token budgets"
    if not packs:
        raise UserError(f"{where} change the states of this {config.model_type} model; {mend}")
    kinds = getattr(config, "layer_types", None) or ["sliding_attention", "chunked_attention"]
    windows = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    for kind, name in windows.items():
        window = getattr(config, name, None)
        if kind in kinds and window is not None and window < max_length:
            raise UserError(
                f"{where} widen the {name.replace('_', ' ')} ({window}) of this {config.model_type} model; "
                f"set both max_length to at most {window}, or {mend.removeprefix('set ')}"
            )


def _run_variable_lengths(model: Any, layout: PackedRows, **inputs: torch.Tensor) -> torch.Tensor:
    ends = layout.cu_seqlens
    note_packed(model, (1, len(layout.token_places)), ends, end_to_end=True)
    flat = {name: layout.of_tokens(value).unsqueeze(0) for name, value in inputs.items()}
    states = model(
        **flat,
        position_ids=layout.of_tokens(layout.position_ids).unsqueeze(0) + first_position(model),
        attention_mask=None,
        cu_seq_lens_q=ends,
        cu_seq_lens_k=ends,
        max_length_q=layout.max_seqlen,
        max_length_k=layout.max_seqlen,
    ).last_hidden_state
    out = states.new_zeros(layout.segment_ids.numel(), states.shape[-1])
    return out.index_copy(0, layout.token_places, states[0]).view(*layout.segment_ids.shape, -1)
