"""Start of a linear connector from data: least squares from encoder states to the LLM's own input embeddings, and their scale.

Encoder token i of a text is paired with the mean input embedding of the LLM tokens whose characters it shares. The
start comes from a later variant of MT-LLM by its authors (not the paper): about 1,024 English documents are enough.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from mtllm_ds.cluster.agree import sum_over_ranks
from mtllm_ds.cluster.zero import gathered
from mtllm_ds.config.sections import ConnectorSettings
from mtllm_ds.data.text.padding import padded
from mtllm_ds.data.text.tokenization import SegmentTokens, TextTokenizer
from mtllm_ds.models.connector import LeastSquares
from mtllm_ds.models.stacked import StackedModel

_TEXTS_A_FORWARD = 16


def start_connector(
    stack: StackedModel,
    texts: Sequence[tuple[str, str]],
    encoder_tokenizer: TextTokenizer,
    llm_tokenizer: TextTokenizer,
    settings: ConnectorSettings,
    device: torch.device,
) -> None:
    """Set the connector's weights as its settings say; `texts` are this rank's share of (text, language)."""
    connector = stack.connector
    assert isinstance(connector, nn.Linear)
    table = stack.llm.get_input_embeddings()
    sums = LeastSquares(connector.in_features, connector.out_features)
    # Before the engine exists nothing gathers partitioned weights by itself.
    with gathered([*stack.encoder.parameters(), *table.parameters()]), torch.no_grad():
        for start in range(0, len(texts), _TEXTS_A_FORWARD):
            part = texts[start : start + _TEXTS_A_FORWARD]
            _add_texts(sums, stack, table, part, encoder_tokenizer, llm_tokenizer, device)
    for tensor in sums.tensors():
        # Collectives want tensors where the backend lives.
        tensor.copy_(sum_over_ranks(tensor.to(device)).cpu())
    weight, bias = connector.weight.detach(), connector.bias.detach()
    if settings.init == "least_squares":
        weight, bias = sums.solve(settings.init_ridge)
    if settings.match_scale:
        weight, bias = sums.match(weight.cpu())
    connector.weight.data.copy_(weight)
    connector.bias.data.copy_(bias)


def _add_texts(
    sums: LeastSquares,
    stack: StackedModel,
    table: nn.Module,
    texts: Sequence[tuple[str, str]],
    encoder_tokenizer: TextTokenizer,
    llm_tokenizer: TextTokenizer,
    device: torch.device,
) -> None:
    words = [text for text, _ in texts]
    read = encoder_tokenizer.tokenize(words)
    limit = encoder_tokenizer.spec.max_length
    whole = [encoder_tokenizer.join([tokens.ids], lang)[:limit] for tokens, (_, lang) in zip(read, texts, strict=True)]
    ids, mask = padded(whole, encoder_tokenizer.pad_id)
    states = stack.encoded(ids.to(device), mask.to(device)).float().cpu()
    first = len(encoder_tokenizer.template.prefix)
    for row, (encoder_tokens, llm_tokens) in enumerate(zip(read, llm_tokenizer.tokenize(words), strict=True)):
        num = min(len(encoder_tokens.ids), int(mask[row].sum()) - first)
        if num <= 0 or not llm_tokens.ids:
            continue
        embeddings = table(torch.tensor(llm_tokens.ids, device=device)).float().cpu()
        share = torch.from_numpy(overlap_shares(encoder_tokens, llm_tokens))[:num]
        sums.add(states[row, first : first + num], share @ embeddings)


def overlap_shares(left: SegmentTokens, right: SegmentTokens) -> np.ndarray:
    """Row i says how the characters of left token i spread over the right tokens; rows sum to one: (n_left, n_right)."""
    left_ends, right_ends = np.asarray(left.ends), np.asarray(right.ends)
    left_starts, right_starts = np.append(0, left_ends[:-1]), np.append(0, right_ends[:-1])
    upper = np.minimum(left_ends[:, None], right_ends[None, :])
    lower = np.maximum(left_starts[:, None], right_starts[None, :])
    shared = np.clip(upper - lower, 0, None).astype(np.float32)
    # A token without characters of its own (a space folded away) takes the right token at its end.
    empty = shared.sum(1) == 0
    nearest = np.clip(np.searchsorted(right_ends, left_ends[empty]), 0, len(right_ends) - 1)
    shared[np.flatnonzero(empty), nearest] = 1.0
    return shared / shared.sum(1, keepdims=True)
