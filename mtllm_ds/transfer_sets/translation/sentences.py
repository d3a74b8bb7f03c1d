"""Sentences of a text in any script, by rules alone: what an MT model is given at a time.

A sentence ends
- at a line break;
- after a full stop of a script that has its own, whether or not a space follows: CJK, Devanagari, Khmer, Burmese, Ethiopic,
  Tibetan, Arabic, Armenian;
- after `.`, `!`, `?` or `…` before white space, unless the word before is an abbreviation or a number at the start of
  a line (`1. Open ...`), or the next word begins in lower case.
Closing quotes and brackets stay with the sentence they close. Thai and Lao mark no end, so a text is one sentence there and
only a length limit cuts it (`cut_in_two`). What is between the sentences is white space, and is kept.
"""

from __future__ import annotations

import re
from typing import NamedTuple

OWN_STOPS = (
    "\u3002\uff01\uff1f\uff61"  # CJK
    "\u0964\u0965"  # Devanagari danda
    "\u17d4\u17d5"  # Khmer khan
    "\u104b"  # Burmese
    "\u1362\u1367\u1368"  # Ethiopic
    "\u0f0d\u0f0e"  # Tibetan shad
    "\u061f\u06d4"  # Arabic and Urdu
    "\u0589"  # Armenian
)
"""Full stops that need no space after them."""
LATIN_STOPS = ".!?…"
CLOSERS = "\"'”’»›)]」』）】〉》"  # noqa: RUF001 - these very characters
ABBREVIATIONS = frozenset(
    [
        "abb",
        "approx",
        "bzw",
        "ca",
        "cf",
        "co",
        "dr",
        "fig",
        "inc",
        "inkl",
        "ltd",
        "mr",
        "mrs",
        "ms",
        "nr",
        "pp",
        "prof",
        "usw",
        "vgl",
        "vs",
    ]
)
"""Words that a full stop seldom ends a sentence after, lower-cased; none of them is a word of its own in English."""
CLAUSE_ENDS = ",;:،、，；：—–)）」"  # noqa: RUF001 - these very characters

_END = re.compile(rf"[{OWN_STOPS}]+[{re.escape(CLOSERS)}]*|[{LATIN_STOPS}]+[{re.escape(CLOSERS)}]*(?=\s)|(?=\n)")
_LAST_WORD = re.compile(r"\w+$")


class Piece(NamedTuple):
    """A sentence without white space around it, and the white space before it."""

    gap: str
    sentence: str


def split_sentences(text: str) -> list[Piece]:
    """Sentences in order; gaps and sentences together are the text, up to white space at its end."""
    pieces: list[Piece] = []
    start, gap = 0, ""
    ends = [found.end() for found in _END.finditer(text) if _is_end(text, found)]
    for end in (*ends, len(text)):
        part = text[start:end]
        sentence = part.strip()
        gap += part[: len(part) - len(part.lstrip())]
        if sentence:
            pieces.append(Piece(gap, sentence))
            gap = part[len(part.rstrip()) :]
        start = end
    return pieces


def cut_in_two(sentence: str) -> tuple[str, str]:
    """A sentence that is too long, cut near its middle: after a clause, else at a space, else between two characters.

    The two parts together are the sentence, up to white space at the cut. Raises `ValueError` for fewer than two characters.
    """
    if len(sentence) < 2:
        raise ValueError(f"{sentence!r} cannot be cut")
    middle = len(sentence) / 2
    inner = range(1, len(sentence))
    clauses = [i for i in inner if sentence[i - 1] in CLAUSE_ENDS]
    spaces = [i for i in inner if sentence[i].isspace() or sentence[i] == "\u200b"]  # Khmer parts words by U+200B
    for places in (clauses, spaces):
        central = [i for i in places if len(sentence) / 4 <= i <= 3 * len(sentence) / 4]
        if central:
            at = min(central, key=lambda i: abs(i - middle))
            return sentence[:at].strip(), sentence[at:].strip()
    return sentence[: len(sentence) // 2], sentence[len(sentence) // 2 :]


def _is_end(text: str, found: re.Match[str]) -> bool:
    mark = found.group()
    if not mark or mark[0] in OWN_STOPS:
        return True
    following = text[found.end() :].lstrip()
    if not following or following[0].islower():
        return False
    before = _LAST_WORD.search(text, 0, found.start())
    if mark[0] != "." or before is None:
        return True
    word = before.group()
    is_enumeration = word.isdigit() and not text[: before.start()].rpartition("\n")[2].strip()
    is_initial = len(word) == 1 and word.isalpha()
    return not (is_enumeration or is_initial or word.lower() in ABBREVIATIONS)
