"""A masked language model and what it is held against, on texts of any number of languages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from mtllm_ds.data.text.tokenization import SegmentTokens
from mtllm_ds.data.writing.sources import InputFile, SourceReader
from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.masked.model import MaskedLM
from mtllm_ds.evaluation.masked.passes import MaskedBatch, batches_of, rows_of
from mtllm_ds.evaluation.masked.scores import LineSums, Texts, score, uniform, unigram

Progress = Callable[[int, int], None]
"""(what is done, all)"""
_LARGEST_LOGITS = 1 << 27
"""Elements of the logits of a batch."""
_STRETCH = 1 << 14
"""Texts that are dealt into rows and sorted by length at once."""


def read_texts(inputs: Iterable[InputFile], limit: int | None = None) -> Texts:
    """Every text that is not blank, of each file the first `limit` at most.

    Raises:
        UserError: a file cannot be read, or holds no text.
    """
    pairs = [pair for source in inputs for pair in _texts_of(SourceReader(source), "--input", limit)]
    return Texts([language for language, _ in pairs], [text for _, text in pairs])


def told_by(texts: Texts, model: MaskedLM) -> Texts:
    """The texts with what the model's tokenizer does not know of them, which is left out of all scores.

    Raises:
        UserError: it knows nothing of a language's.
    """
    unknown_tokens, unknown_bytes = np.zeros((2, len(texts.texts)), np.int64)
    known = set()
    for line, (language, text, found) in enumerate(
        zip(texts.languages, texts.texts, _tokens(model, texts.texts), strict=True)
    ):
        is_unknown = model.is_special[np.asarray(found.ids, np.int64)]
        starts = found.starts if found.starts is not None else [0, *found.ends[:-1]]
        spans = [(starts[i], found.ends[i]) for i in np.flatnonzero(is_unknown)]
        unknown_tokens[line] = len(spans)
        unknown_bytes[line] = sum(len(text[start:end].encode()) for start, end in spans)
        if not is_unknown.all():
            known.add(language)
    if missing := [code for code in dict.fromkeys(texts.languages) if code not in known]:
        raise UserError(f"--model: its tokenizer knows nothing of the text of {missing[0]}; leave that out")
    return replace(texts, unknown_tokens=unknown_tokens, unknown_bytes=unknown_bytes)


def evaluate_masked(
    model: MaskedLM,
    texts: Texts,
    *,
    num_passes: int,
    max_length: int,
    tokens_per_batch: int,
    counts: Mapping[str, np.ndarray] | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, LineSums]:
    """Sums of `model`, `unigram` (where counts are given) and `uniform`, over all tokens but special ones, the unknown among them.

    Args:
        counts: of the training text's tokens, of every language that is scored, as `count_tokens` gives them
    """
    if missing := sorted(set(texts.languages) - set(counts)) if counts is not None else []:
        raise UserError(f"--training-text: none of {missing[0]}, which is scored; give it as {missing[0]}=FILE")
    vocab_size = model.tokenizer.vocab_size
    # Each masks about one token in `num_passes`, and each takes a row of logits; a model that tells all takes one for every token.
    told_share = 1 if model.tells_all else min(num_passes, max_length)
    tokens_per_batch = min(tokens_per_batch, max(max_length, _LARGEST_LOGITS // vocab_size * told_share))
    device = next(model.model.parameters()).device
    token_ids = _token_ids(model, texts.texts)
    total, done = sum(map(len, token_ids)), 0

    def batches() -> Iterator[MaskedBatch]:
        nonlocal done
        numbered = enumerate(zip(texts.languages, texts.texts, strict=True))
        while stretch := [(number, *pair) for number, pair in islice(numbered, _STRETCH)]:
            rows = list(rows_of(model.tokenizer, stretch, num_passes, max_length, model.is_special))
            for batch in batches_of(rows, model.mask_id, model.tokenizer.pad_id, tokens_per_batch, device):
                yield batch
                done += len(batch.wanted)
                progress(done, total)

    sums = {"model": score(batches(), model, len(texts.texts))}
    if counts is not None:
        sums["unigram"] = unigram(token_ids, texts.languages, counts)
    return sums | {"uniform": uniform(token_ids, vocab_size)}


def count_tokens(
    model: MaskedLM, inputs: Sequence[InputFile], progress: Progress = lambda *_: None
) -> dict[str, np.ndarray]:
    """(V,) int64 by language: how often each token that is scored stands in the text, of which little is held at a time.

    Args:
        progress: called with bytes read and to read

    Raises:
        UserError: as `read_texts`.
    """
    counts: dict[str, np.ndarray] = {}
    readers = [SourceReader(source) for source in inputs]
    pairs = (pair for reader in readers for pair in _texts_of(reader, "--training-text"))
    while stretch := list(islice(pairs, _STRETCH)):
        ids_of: dict[str, list[np.ndarray]] = {}
        for (language, _), ids in zip(stretch, _token_ids(model, [text for _, text in stretch]), strict=True):
            ids_of.setdefault(language, []).append(ids)
        for language, parts in ids_of.items():
            own = np.bincount(np.concatenate(parts), minlength=model.tokenizer.vocab_size)
            counts[language] = counts.get(language, 0) + own
        progress(sum(reader.bytes_read for reader in readers), sum(reader.bytes_total for reader in readers))
    return counts


def _texts_of(reader: SourceReader, option: str, limit: int | None = None) -> Iterator[tuple[str, str]]:
    """(language, text) of a file, not blank, the first `limit` at most; `UserError` that names the option where there is none."""
    number = 0
    for document in reader:
        if number == limit:
            return
        if document.segments[0]:
            number += 1
            yield document.language, document.segments[0]
    if not number:
        raise UserError(f"{option}={reader.source.path}: holds no text; give a file that does")


def _token_ids(model: MaskedLM, texts: Sequence[str]) -> list[np.ndarray]:
    """Ids of each text that are scored."""
    found = [np.asarray(tokens.ids, np.int64) for tokens in _tokens(model, texts)]
    return [ids[~model.is_special[ids]] for ids in found]


def _tokens(model: MaskedLM, texts: Sequence[str]) -> Iterator[SegmentTokens]:
    for start in range(0, len(texts), _STRETCH):
        yield from model.tokenizer.tokenize(texts[start : start + _STRETCH])
