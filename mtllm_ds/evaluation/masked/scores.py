"""What a masked language model is worth on texts, and what counting words is worth: sums a text, figures a language."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mtllm_ds.evaluation.masked.passes import MaskedBatch

Tell = Callable[[MaskedBatch], torch.Tensor]
"""a batch -> logits (N, V) at its masked positions, row by row"""


@dataclass(frozen=True)
class LineSums:
    """Sums over the tokens of each text; L texts."""

    nll: np.ndarray
    """(L,) float64 nats"""
    reciprocal_rank: np.ndarray
    """(L,) float64"""
    num_tokens: np.ndarray
    """(L,) int64"""


@dataclass(frozen=True)
class Texts:
    """What is scored; L texts. What a tokenizer does not know of them is not."""

    languages: Sequence[str]
    texts: Sequence[str]
    unknown_tokens: np.ndarray | None = None
    """(L,) int64; None is none"""
    unknown_bytes: np.ndarray | None = None
    """(L,) int64 of UTF-8 that those stand for"""

    @property
    def num_bytes(self) -> np.ndarray:
        """(L,) int64 of UTF-8 that are scored"""
        total = np.array([len(text.encode()) for text in self.texts], np.int64)
        return total if self.unknown_bytes is None else total - self.unknown_bytes

    def unknown_shares(self, num_tokens: np.ndarray) -> dict[str, float]:
        """By language the share of its tokens that are unknown, beside (L,) that are scored."""
        unknown = np.zeros_like(num_tokens) if self.unknown_tokens is None else self.unknown_tokens
        languages, shares = np.asarray(self.languages), {}
        for code in dict.fromkeys(self.languages):
            own = languages == code
            shares[code] = float(unknown[own].sum() / max(1, (unknown + num_tokens)[own].sum()))
        return shares


@dataclass(frozen=True)
class LanguageScores:
    """Of a language, or means over languages."""

    nll: float
    """nats per token"""
    nll_per_byte: float
    """nats per byte of text, which models of different tokenizers can be compared by"""
    mrr: float
    """mean reciprocal rank of the right token in the whole vocabulary"""


def score(batches: Iterable[MaskedBatch], tell: Tell, num_lines: int) -> LineSums:
    """Sums of a model over batches.

    The rank of the right token counts all that score at least as high, so that a model without an opinion finds nothing.
    """
    sums = LineSums(np.zeros(num_lines), np.zeros(num_lines), np.zeros(num_lines, np.int64))
    for batch in batches:
        logits = tell(batch).float()
        wanted = logits.gather(1, batch.wanted[:, None])
        nll = logits.logsumexp(1) - wanted[:, 0]
        rank = (logits >= wanted).sum(1)
        np.add.at(sums.nll, batch.lines, nll.double().cpu().numpy())
        np.add.at(sums.reciprocal_rank, batch.lines, 1 / rank.double().cpu().numpy())
        np.add.at(sums.num_tokens, batch.lines, 1)
    return sums


def uniform(token_ids: Sequence[np.ndarray], vocab_size: int) -> LineSums:
    """What guessing is worth: the same chance for every token of the vocabulary."""
    num_tokens = np.array([len(ids) for ids in token_ids], np.int64)
    return LineSums(num_tokens * math.log(vocab_size), num_tokens / vocab_size, num_tokens)


def unigram(token_ids: Sequence[np.ndarray], languages: Sequence[str], counts: Mapping[str, np.ndarray]) -> LineSums:
    """What counting is worth: each token by its count in the training text of its language plus one.

    Args:
        token_ids: those that are scored, of each text
        counts: (V,) by language
    """
    told = {code: _log_chances(own) for code, own in counts.items()}
    pairs = [(told[code], ids) for code, ids in zip(languages, token_ids, strict=True)]
    nll = np.array([-chances[ids].sum() for (chances, _), ids in pairs])
    reciprocal = np.array([(1 / ranks[ids]).sum() for (_, ranks), ids in pairs])
    return LineSums(nll, reciprocal, np.array([len(ids) for ids in token_ids], np.int64))


def by_language(sums: LineSums, texts: Texts) -> dict[str, LanguageScores]:
    """Figures of each language, over all its tokens."""
    languages, num_bytes = np.asarray(texts.languages), texts.num_bytes
    found = {}
    for code in dict.fromkeys(texts.languages):
        own = languages == code
        nll, num_tokens = sums.nll[own].sum(), sums.num_tokens[own].sum()
        found[code] = LanguageScores(
            float(nll / num_tokens),
            float(nll / num_bytes[own].sum()),
            float(sums.reciprocal_rank[own].sum() / num_tokens),
        )
    return found


def mean_of(scores: Mapping[str, LanguageScores], languages: Iterable[str]) -> LanguageScores:
    """Mean over languages, each as heavy as another."""
    chosen = [scores[code] for code in languages]
    return LanguageScores(
        *(float(np.mean([getattr(own, name) for own in chosen])) for name in LanguageScores.__dataclass_fields__)
    )


def _log_chances(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(V,) log chances of add-one counts, and (V,) ranks, of tokens of one count the last."""
    chances = np.log((counts + 1) / (counts.sum() + len(counts)))
    ascending = np.sort(counts)
    return chances, len(counts) - np.searchsorted(ascending, counts, side="left")
