"""From the final states of a text's tokens to its vector, as `model.pooling` says: of student and teacher alike.

    mean           sum_i h_i / n            MT-LLM, LLM2Vec
    weighted_mean  sum_i i h_i / sum_i i    for causal LLMs, whose later tokens have read more
    last           h_n                      for causal LLMs, whose last token alone has read the whole text

h_1 .. h_n are the states of all tokens that the mask marks, special ones too; padding may stand on either side. So the last is what
the tokenizer's template ends with: `</s>` of `[src] x </s>`, which the stack reads; of `<bos> x`, which an LLM reads, the text's
last piece, as nothing is put behind a text for it; `[SEP]` of BERT's `[CLS] x [SEP]`. The span of a choice is pooled as a text of
its own: its first token is h_1. Sums are in float32; where there is no token the vector is zeros.

Source of the weighted mean: Muennighoff, "SGPT: GPT Sentence Embeddings for Semantic Search", arXiv 2202.08904.
Shapes: B samples, S tokens, C choices, D the width of the states; packed rows are R rows of P tokens.
"""

from __future__ import annotations

import torch

from mtllm_ds.config.sections import Pooling
from mtllm_ds.data.stream.packing import PackedRows


def pool(states: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Vectors of padded rows: (B, S, D), (B, S) -> (B, D) float32."""
    weights = _weights(mask, pooling).unsqueeze(-1)
    return (states.float() * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def pool_spans(states: torch.Tensor, spans: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Vectors of spans of tokens: (B, S, D), (B, C, 2) [start, end) -> (B, C, D) float32."""
    positions = torch.arange(states.shape[1], device=states.device)
    weights = _weights((positions >= spans[..., :1]) & (positions < spans[..., 1:]), pooling)
    return torch.bmm(weights, states.float()) / weights.sum(-1, keepdim=True).clamp(min=1.0)


def pool_packed(states: torch.Tensor, layout: PackedRows, pooling: Pooling) -> torch.Tensor:
    """Vectors of packed samples: (R, P, D) -> (B, D) float32 in the order of the batch."""
    owners, lengths = layout.of_tokens(layout.segment_ids), torch.diff(layout.cu_seqlens).long()
    values, totals = layout.of_tokens(states).float(), lengths.float()
    if pooling != "mean":
        weights = _token_weights(layout.of_tokens(layout.position_ids) + 1, lengths[owners], pooling)
        values = values * weights[:, None]
        totals = torch.zeros_like(totals).index_add(0, owners, weights)
    sums = values.new_zeros(len(lengths), values.shape[-1]).index_add(0, owners, values)
    return sums / totals.clamp(min=1.0)[:, None]


def _weights(mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Weights of the tokens that a mask (..., S) marks: (..., S) float32, 0 elsewhere."""
    marked = mask.to(torch.float32)
    if pooling == "mean":
        return marked
    numbers = mask.long().cumsum(-1)
    return _token_weights(numbers, numbers[..., -1:], pooling) * marked


def _token_weights(numbers: torch.Tensor, counts: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Weights of tokens that are numbered from 1 in texts of so many tokens, float32."""
    return (numbers if pooling == "weighted_mean" else numbers == counts).to(torch.float32)
