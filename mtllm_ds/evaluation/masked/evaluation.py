"""A masked language model and what it is held against, on texts of any number of languages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from mtllm_ds.data.text.tokenization import TextTokenizer
from mtllm_ds.data.writing.sources import InputFile, SourceReader
from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.masked.model import MaskedLM
from mtllm_ds.evaluation.masked.passes import MaskedBatch, batches_of, rows_of
from mtllm_ds.evaluation.masked.scores import LineSums, Texts, score, uniform, unigram

Progress = Callable[[int, int], None]
"""(masked tokens that are told, all)"""
_LARGEST_LOGITS = 1 << 27
"""Elements of the logits of a batch."""
_STRETCH = 1 << 14
"""Texts that are dealt into rows and sorted by length at once."""


def read_texts(inputs: Iterable[InputFile], limit: int | None = None) -> Texts:
    """Every text that is not blank, of each file the first `limit` at most.

    Raises:
        UserError: a file cannot be read, or holds no text.
    """
    languages: list[str] = []
    texts: list[str] = []
    for source in inputs:
        before = len(texts)
        for document in SourceReader(source):
            if limit is not None and len(texts) - before == limit:
                break
            if document.segments[0]:
                languages.append(document.language)
                texts.append(document.segments[0])
        if len(texts) == before:
            raise UserError(f"--input={source.path}: holds no text; give a file that does")
    return Texts(languages, texts)


def evaluate_masked(
    model: MaskedLM,
    texts: Texts,
    *,
    num_passes: int,
    max_length: int,
    tokens_per_batch: int,
    training: Iterable[InputFile] = (),
    progress: Progress = lambda *_: None,
) -> dict[str, LineSums]:
    """Sums of `model`, `unigram` (where training text is given) and `uniform`.

    Args:
        training: text whose tokens the unigram baseline counts, of every language that is scored
    """
    vocab_size = model.tokenizer.vocab_size
    # Each masks about one token in `num_passes`, and each takes a row of logits.
    tokens_per_batch = min(
        tokens_per_batch, max(max_length, _LARGEST_LOGITS // vocab_size * min(num_passes, max_length))
    )
    device = next(model.model.parameters()).device
    token_ids = _token_ids(model.tokenizer, texts.texts)
    total, done = sum(map(len, token_ids)), 0

    def batches() -> Iterator[MaskedBatch]:
        nonlocal done
        numbered = enumerate(zip(texts.languages, texts.texts, strict=True))
        while stretch := [(number, *pair) for number, pair in islice(numbered, _STRETCH)]:
            rows = list(rows_of(model.tokenizer, stretch, num_passes, max_length))
            for batch in batches_of(rows, model.mask_id, model.tokenizer.pad_id, tokens_per_batch, device):
                yield batch
                done += len(batch.wanted)
                progress(done, total)

    sums = {"model": score(batches(), model, len(texts.texts))}
    if training := tuple(training):
        counts = count_tokens(model.tokenizer, training)
        missing = sorted(set(texts.languages) - set(counts))
        if missing:
            raise UserError(f"--training-text: none of {missing[0]}, which is scored; give it as {missing[0]}=FILE")
        sums["unigram"] = unigram(token_ids, texts.languages, counts)
    return sums | {"uniform": uniform(token_ids, vocab_size)}


def count_tokens(tokenizer: TextTokenizer, inputs: Iterable[InputFile]) -> dict[str, np.ndarray]:
    """(V,) int64 by language: how often each token stands in the text."""
    counts: dict[str, np.ndarray] = {}
    texts = read_texts(inputs)
    for language, ids in zip(texts.languages, _token_ids(tokenizer, texts.texts), strict=True):
        own = counts.setdefault(language, np.zeros(tokenizer.vocab_size, np.int64))
        np.add.at(own, ids, 1)
    return counts


def _token_ids(tokenizer: TextTokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """Ids of each text, without special tokens."""
    return [np.asarray(tokens.ids, np.int64) for tokens in tokenizer.tokenize(texts)]
