"""Both sides see the same text: where one side's ids run over, the *text* is cut at a character that fits both."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mtllm_ds.data.text.tokenization import SegmentTokens, TextTokenizer
from mtllm_ds.errors import UserError

LongDocuments = Literal["truncate", "split"]

_CHARACTERS_PER_TOKEN = 16
"""A text beyond this many characters a token of the budget is looked at piecewise, so that a book costs no quadratic time."""


@dataclass(frozen=True)
class EncodedSample:
    """One sample as its sides (encoder, LLM, or one of them) read it."""

    ids: dict[str, list[int]]
    """By side"""
    segments: tuple[str, ...]
    """The text that they saw; of a translation and its original (`documents.py`) the translation."""
    is_cut: bool
    """The document went on after this text (truncated, or continued in the next sample)."""
    llm_text: str | None = None
    """What the LLM saw, where that is another text."""


def encode_documents(
    sides: Sequence[TextTokenizer],
    documents: Sequence[tuple[str, ...]],
    language: str,
    long_documents: LongDocuments = "truncate",
) -> list[list[EncodedSample]]:
    """Samples of each document, all of one language: exactly one under `truncate`, one or more under `split`.

    Args:
        documents: the segments of each document; `split` takes documents of one segment only.

    Raises:
        UserError: the language has no tag, or a document of several segments is to be split.
    """
    for side in sides:
        language = side.check_tag(language) or language
    if long_documents == "split" and any(len(segments) > 1 for segments in documents):
        raise UserError(
            "--long-documents=split: documents of two segments cannot be split; use --long-documents truncate"
        )
    shortest = min(side.spec.max_length for side in sides)
    windows = [tuple(window(segment, shortest) for segment in segments) for segments in documents]
    flat = [segment for segments in windows for segment in segments]
    tokens = [iter(side.tokenize(flat)) for side in sides]
    samples = []
    for segments, part in zip(documents, windows, strict=True):
        read = [[next(side_tokens) for _ in segments] for side_tokens in tokens]
        sample = _fit(sides, part, read, language, [len(segment) for segment in segments])
        samples.append([sample])
        if long_documents == "split" and sample.is_cut:
            samples[-1] += _further(sides, segments[0], len(sample.segments[0]), language, shortest)
    return samples


def _further(
    sides: Sequence[TextTokenizer], text: str, start: int, language: str, shortest: int
) -> Iterator[EncodedSample]:
    """The samples of a text from a character on. The text itself is never copied (a book would be, a thousand times), and no more
    of it is tokenized than twice what the last sample held, unless that all fits."""
    length = 2 * start
    while True:
        while start < len(text) and text[start].isspace():
            start += 1
        largest = window(text, shortest, start)
        part = (largest[:length],)
        sample = _fit(sides, part, [side.tokenize(part) for side in sides], language, [len(text) - start])
        if len(sample.segments[0]) == len(part[0]) < len(largest):
            length *= 2
            continue
        yield sample
        if not sample.is_cut:
            return
        start += len(sample.segments[0])
        length = 2 * len(sample.segments[0])


def window(segment: str, max_length: int, start: int = 0) -> str:
    """As much of a segment as `max_length` tokens can possibly hold."""
    return segment[start : start + _CHARACTERS_PER_TOKEN * max_length]


def _fit(
    sides: Sequence[TextTokenizer],
    segments: tuple[str, ...],
    tokens: list[list[SegmentTokens]],
    language: str,
    full: Sequence[int],
) -> EncodedSample:
    """Cut and read again until both sides fit: a cut inside a word may change the word's last tokens. `full`: characters that each
    segment goes on for."""
    while True:
        keep = [len(segment) for segment in segments]
        for side, side_tokens in zip(sides, tokens, strict=True):
            for i, limit in enumerate(_limits(side, side_tokens)):
                if limit is not None:
                    keep[i] = max(1, min(keep[i], limit, len(segments[i]) - 1))
        if all(keep[i] == len(segment) for i, segment in enumerate(segments)):
            ids: dict[str, list[int]] = {
                side.spec.side: side.join([t.ids for t in read], language)
                for side, read in zip(sides, tokens, strict=True)
            }
            is_cut = any(len(segment) < whole for segment, whole in zip(segments, full, strict=True))
            return EncodedSample(ids, segments, is_cut)
        segments = tuple(segment[:length] for segment, length in zip(segments, keep, strict=True))
        tokens = [side.tokenize(segments) for side in sides]


def _limits(side: TextTokenizer, tokens: list[SegmentTokens]) -> list[int | None]:
    """Characters each segment may keep on this side; None where it may keep all. The longest segments give first."""
    budget = side.spec.max_length - side.template.num_special_tokens(len(tokens))
    lengths = [len(segment.ids) for segment in tokens]
    if sum(lengths) <= budget:
        return [None] * len(tokens)
    allowed = fair_share(budget, lengths)
    return [
        segment.ends[count - 1] if count < len(segment.ids) else None
        for segment, count in zip(tokens, allowed, strict=True)
    ]


def fair_share(budget: int, lengths: list[int]) -> list[int]:
    """Tokens each segment may keep: a common cap, short segments whole."""
    allowed = [0] * len(lengths)
    for position, i in enumerate(sorted(range(len(lengths)), key=lengths.__getitem__)):
        allowed[i] = min(lengths[i], max(1, budget // (len(lengths) - position)))
        budget -= allowed[i]
    return allowed
