"""Items of tasks to ids: the one place that training, evaluation and inference share, so that they cannot differ.

A text or a pair goes through the tokenizer's template (`[src] A B </s>`, `<bos> A <bos> B`). An item of multiple choice is
one text, `passage question 1 a1 2 a2 ...`, read jointly; each choice is the span of tokens that read its answer. What is too
long loses text of its segments, the longest first; choices are never cut.

Source of the layouts: Schmidt et al., arXiv 2406.12739, and the authors' public code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtllm_ds.data.text.cutting import fair_share, window
from mtllm_ds.data.text.tokenization import SegmentTokens, TextTokenizer
from mtllm_ds.errors import UserError

Span = tuple[int, int]
"""[start, end): of characters or of tokens"""


@dataclass(frozen=True)
class EncodedItem:
    """An item as one side reads it."""

    ids: list[int]
    """Special tokens included"""
    choice_spans: list[Span]
    """Positions in `ids` of each choice's tokens; empty but for multiple choice"""


@dataclass(frozen=True)
class FittedItem:
    """An item that all sides have room for."""

    sides: list[EncodedItem]
    segments: tuple[str, ...]
    """What was left of the segments: the same text on every side"""
    is_cut: bool
    texts: tuple[str, ...]
    """What the tokenizers read: the segments, or with choices the one text"""


def encode_item(
    tokenizer: TextTokenizer,
    segments: Sequence[str],
    options: Sequence[str] = (),
    language: str | None = None,
    max_length: int | None = None,
) -> EncodedItem:
    """Ids of one item, at most `max_length` (by default the tokenizer's own limit), and where its choices stand.

    Args:
        segments: the text; or premise and hypothesis; or, with `options`, passage and question
        language: FLORES-200 code; None for a tokenizer without tags

    Raises:
        UserError: the tokenizer has no tag for the language, or the choices alone are too long.
    """
    return fit_item((tokenizer,), segments, options, language, (max_length or tokenizer.spec.max_length,)).sides[0]


def fit_item(
    tokenizers: Sequence[TextTokenizer],
    segments: Sequence[str],
    options: Sequence[str],
    language: str | None,
    max_lengths: Sequence[int],
) -> FittedItem:
    """The same text for several sides: cut where the first of them is full. Arguments and errors as of `encode_item`."""
    full = tuple(segment.strip() for segment in segments)
    choices = tuple(option.strip() for option in options)
    kept = tuple(window(segment, min(max_lengths)) for segment in full)
    while True:
        layout = _Layout(kept, choices)
        read = [tokenizer.tokenize(layout.texts) for tokenizer in tokenizers]
        limits = [
            _segment_limits(layout, tokens, max_length - tokenizer.template.num_special_tokens(len(layout.texts)))
            for tokenizer, tokens, max_length in zip(tokenizers, read, max_lengths, strict=True)
        ]
        keep = [min(characters) for characters in zip(*limits, strict=True)]
        if keep == [len(segment) for segment in kept]:
            break
        # A cut inside a word may change the word's last tokens: read again.
        kept = tuple(segment[:length] for segment, length in zip(kept, keep, strict=True))
    sides = [_encoded(tokenizer, layout, tokens, language) for tokenizer, tokens in zip(tokenizers, read, strict=True)]
    return FittedItem(sides, kept, kept != full, layout.texts)


class _Layout:
    """Texts for the tokenizer, and where in them segments and choices stand."""

    def __init__(self, segments: tuple[str, ...], choices: tuple[str, ...]) -> None:
        self.texts = segments
        self.segments: list[tuple[int, Span]] = [(i, (0, len(segment))) for i, segment in enumerate(segments)]
        """(position in `texts`, its characters) of each segment"""
        self.choices: list[tuple[Span, Span]] = []
        """(characters of the answer, characters of its number) of each choice, all in the one text"""
        if not choices:
            return
        numbered = [part for number, choice in enumerate(choices, start=1) for part in (str(number), choice)]
        parts = (*segments, *numbered)
        self.texts = (" ".join(parts),)
        ends = np.cumsum([len(part) + 1 for part in parts]) - 1
        spans = [(int(end) - len(part), int(end)) for part, end in zip(parts, ends, strict=True)]
        self.segments = [(0, span) for span in spans[: len(segments)]]
        spans = spans[len(segments) :]
        self.choices = list(zip(spans[1::2], spans[0::2], strict=True))


def _segment_limits(layout: _Layout, tokens: Sequence[SegmentTokens], budget: int) -> list[int]:
    """Characters that each segment may keep on a side with room for `budget` tokens."""
    within = [_overlapping(tokens[text], span) for text, span in layout.segments]
    lengths = [end - start for start, end in within]
    keep = [end - start for _, (start, end) in layout.segments]
    total = sum(len(text.ids) for text in tokens)
    if total <= budget:
        return keep
    room = budget - (total - sum(lengths))
    whole = list(keep)
    for i, allowed in enumerate(fair_share(max(room, 0), lengths)):
        if allowed < lengths[i]:
            text, (start, _) = layout.segments[i]
            end = tokens[text].ends[within[i][0] + allowed - 1]
            keep[i] = max(1, min(end - start, keep[i] - 1))
    if room < len(lengths) or keep == whole:
        raise UserError(
            f"the item '{layout.texts[0][:40]}' leaves no room for its text: its choices take {total - sum(lengths)} of "
            f"{budget} tokens; raise max_length"
        )
    return keep


def _encoded(
    tokenizer: TextTokenizer, layout: _Layout, tokens: Sequence[SegmentTokens], language: str | None
) -> EncodedItem:
    prefix = len(tokenizer.template.prefix)
    spans = []
    for answer, number in layout.choices:
        start, end = _token_span(tokenizer, layout.texts[0], tokens[0], answer)
        if start == end:  # an answer without text, as copy-masking leaves some: its number stands for it
            start, end = _token_span(tokenizer, layout.texts[0], tokens[0], number)
        spans.append((prefix + start, prefix + end))
    return EncodedItem(tokenizer.join([text.ids for text in tokens], language), spans)


def _token_span(tokenizer: TextTokenizer, text: str, tokens: SegmentTokens, span: Span) -> Span:
    """Tokens that spell at least one of some characters; an empty span where there are none."""
    if tokens.starts is not None or span[0] == span[1]:
        start, end = _overlapping(tokens, span)
    else:  # without offsets: what the text before the span, and the text up to its end, have in common with the whole
        before, up_to = (tokenizer.tokenize([text[:edge].rstrip()])[0].ids for edge in span)
        start, end = _num_common(before, tokens.ids), _num_common(up_to, tokens.ids)
        end += end < len(up_to)
    while (
        start < end and tokens.ids[start] in tokenizer.blank_ids
    ):  # it belongs to no character, whatever its offsets say
        start += 1
    return start, end


def _overlapping(tokens: SegmentTokens, span: Span) -> Span:
    start, end = span
    ends = np.asarray(tokens.ends, np.int64)
    starts = np.asarray([0, *tokens.ends[:-1]][: len(ends)] if tokens.starts is None else tokens.starts, np.int64)
    found = np.flatnonzero((starts < end) & (ends > start) & (start < end))
    return (int(found[0]), int(found[-1]) + 1) if len(found) else (0, 0)


def _num_common(left: Sequence[int], right: Sequence[int]) -> int:
    """Leading ids that two sequences share."""
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return position
    return min(len(left), len(right))
