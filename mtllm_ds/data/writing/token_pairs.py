"""Words that are one token for both tokenizers: where the two sides of a sample can be compared token by token.

    token_pairs   ragged (n, 2): position in `encoder_ids`, position in `llm_ids`

A word is a run of letters and digits. It counts where, on each side, one known token reads it whole and nothing else (a blank that
the tokenizer glues to it aside). The auxiliary loss of a later variant of MT-LLM by its authors (not the paper) compares the states
at these places.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mtllm_ds.data.shards.blocks import Ragged
from mtllm_ds.data.text.tokenization import SegmentTokens, TextTokenizer
from mtllm_ds.errors import UserError

_WORD = re.compile(r"\w+")


def token_pairs_column(sides: Sequence[TextTokenizer], samples: Sequence[tuple[str, ...]]) -> Ragged:
    """The column of samples, given as the texts that both sides (encoder, LLM) read.

    Raises:
        UserError: a tokenizer tells no offsets.
    """
    for side in sides:
        if not side.has_offsets:
            raise UserError(
                f"--token-pairs: the tokenizer '{side.spec.name}' tells no offsets; leave --token-pairs out"
            )
    flat = [text for texts in samples for text in texts]
    read = [iter(side.tokenize(flat)) for side in sides]
    rows = [_pairs(sides, texts, [[next(tokens) for _ in texts] for tokens in read]) for texts in samples]
    return Ragged.from_rows(rows, np.int32) if rows else Ragged(np.empty((0, 2), np.int32), np.zeros(1, np.int64))


def _pairs(sides: Sequence[TextTokenizer], texts: Sequence[str], read: Sequence[Sequence[SegmentTokens]]) -> np.ndarray:
    """(n, 2) pairs of one sample; `read[s][t]` is text t on side s."""
    found = []
    starts = [len(side.template.prefix) for side in sides]
    for number, text in enumerate(texts):
        words = {match.span() for match in _WORD.finditer(text)}
        encoder, llm = (
            {word: starts[s] + i for word, i in _word_tokens(side, text, read[s][number], words).items()}
            for s, side in enumerate(sides)
        )
        found += [(position, llm[word]) for word, position in encoder.items() if word in llm]
        for s, side in enumerate(sides):
            starts[s] += len(read[s][number].ids) + len(side.template.between)
    return np.array(sorted(found), np.int32).reshape(-1, 2)


def _word_tokens(
    tokenizer: TextTokenizer, text: str, tokens: SegmentTokens, words: set[tuple[int, int]]
) -> dict[tuple[int, int], int]:
    """The tokens that read a whole word each, by the word's characters."""
    assert tokens.starts is not None
    spans = []
    for token, start, end in zip(tokens.ids, tokens.starts, tokens.ends, strict=True):
        while start < end and text[start].isspace():
            start += 1
        spans.append((start, end) if token not in tokenizer.blank_ids else (0, 0))
    # A character of several byte tokens gives them all the same place.
    times = Counter(spans)
    return {
        span: i
        for i, span in enumerate(spans)
        if span in words and times[span] == 1 and tokens.ids[i] != tokenizer.unknown_id
    }
