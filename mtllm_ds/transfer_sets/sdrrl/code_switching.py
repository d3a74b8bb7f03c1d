"""Words of one language in a sentence of another: a share of those that a lexicon knows is replaced."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from mtllm_ds.draws import permutation

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")  # noqa: RUF001 - this very apostrophe


def words_of(texts: Iterable[str]) -> list[str]:
    """Lower-cased words, each once, sorted."""
    return sorted({word.group().lower() for text in texts for word in WORD.finditer(text)})


def switched(text: str, lexicon: Mapping[str, str], ratio: float, *key: int) -> str:
    """`text` with `ratio` of the words that the lexicon (lower-cased) knows replaced, rounded half up; which ones depends on `key`.

    At 0 it is the text itself, at 1 every known word is replaced. A capital at the beginning of a word stays one.
    """
    known = [found for found in WORD.finditer(text) if found.group().lower() in lexicon]
    count = int(ratio * len(known) + 0.5)
    chosen = {int(place) for place in permutation(len(known), *key)[:count]}
    result, at = "", 0
    for place, found in enumerate(known):
        if place in chosen:
            result += text[at : found.start()] + _cased(lexicon[found.group().lower()], found.group())
            at = found.end()
    return result + text[at:]


def _cased(translation: str, word: str) -> str:
    if len(word) > 1 and word.isupper():
        return translation.upper()
    return translation[:1].upper() + translation[1:] if word[0].isupper() else translation
