"""Which tokens are masked together: every token of a text once in k passes, the same however texts are batched, cut or limited."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mtllm_ds.data.text.tokenization import TextTokenizer
from mtllm_ds.draws import permutation
from mtllm_ds.errors import UserError

_NEVER = -1
"""Pass of a token that is not masked in any"""


@dataclass(frozen=True)
class MaskedRow:
    """What a model reads at once: a text, or a window of a longer one, with some tokens masked."""

    line: int
    """position of its text"""
    ids: np.ndarray
    """(n,) int64 as they are, special tokens included"""
    masked: np.ndarray
    """(m,) int64 positions in `ids`, in order, m > 0"""


@dataclass(frozen=True)
class MaskedBatch:
    """Rows side by side, padded."""

    ids: torch.Tensor
    """(B, S) int64, masked"""
    attention_mask: torch.Tensor
    """(B, S) int64"""
    masked: torch.Tensor
    """(B, S) bool"""
    wanted: torch.Tensor
    """(N,) int64: what stood at the masked positions, row by row"""
    lines: np.ndarray
    """(N,) int64: the text each belongs to"""


def rows_of(
    tokenizer: TextTokenizer,
    texts: Iterable[tuple[int, str, str]],
    num_passes: int,
    max_length: int,
    is_special: np.ndarray,
) -> Iterator[MaskedRow]:
    """Rows that mask each token of (line, language, text) exactly once, but for special ones, the unknown among them.

    A text's tokens are dealt to the passes in an order that the sha256 of the text decides: a pass masks one in `num_passes`. What
    is longer than `max_length` is cut into windows of that length.

    Args:
        is_special: (V,) bool
    """
    empty = np.asarray(tokenizer.join([[]], None), np.int64)
    room = max_length - len(empty)
    if room < 1:
        raise UserError(f"--max-length={max_length}: special tokens alone take {len(empty)}; raise it")
    before = len(tokenizer.template.prefix)
    for line, _, text in texts:
        content = np.asarray(tokenizer.tokenize([text])[0].ids, np.int64)
        passes = np.where(is_special[content], _NEVER, _passes(text, len(content), num_passes))
        for start in range(0, len(content), room):
            window = slice(start, start + room)
            ids = np.concatenate([empty[:before], content[window], empty[before:]])
            for number in np.unique(passes[window][passes[window] != _NEVER]):
                yield MaskedRow(line, ids, before + np.flatnonzero(passes[window] == number))


def batches_of(
    rows: Sequence[MaskedRow], mask_id: int, pad_id: int, tokens_per_batch: int, device: torch.device
) -> Iterator[MaskedBatch]:
    """Rows of about the same length together, the longest first; a batch holds at most so many tokens, or one row."""
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number].ids))
    start = 0
    while start < len(order):
        num_rows = max(1, tokens_per_batch // len(rows[order[start]].ids))
        yield _padded([rows[number] for number in order[start : start + num_rows]], mask_id, pad_id, device)
        start += num_rows


def _passes(text: str, num_tokens: int, num_passes: int) -> np.ndarray:
    """(num_tokens,) int64: the pass of each token."""
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
    passes = np.empty(num_tokens, np.int64)
    passes[permutation(num_tokens, key)] = np.arange(num_tokens) % num_passes
    return passes


def _padded(rows: Sequence[MaskedRow], mask_id: int, pad_id: int, device: torch.device) -> MaskedBatch:
    shape = len(rows), max(len(row.ids) for row in rows)
    ids, attention = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
    masked = np.zeros(shape, bool)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = row.ids
        attention[number, : len(row.ids)] = 1
        masked[number, row.masked] = True
    wanted = ids[masked]
    ids[masked] = mask_id
    lines = np.repeat([row.line for row in rows], [len(row.masked) for row in rows])
    on_device = [torch.from_numpy(array).to(device) for array in (ids, attention, masked, wanted)]
    return MaskedBatch(on_device[0], on_device[1], on_device[2], on_device[3], lines)
