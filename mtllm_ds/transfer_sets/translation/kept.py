"""What no translation may touch: code, links, mark-up, and what begins a list item or a heading.

Blocks and the beginnings of lines lie between sentences. What stands inside a sentence is hidden behind placeholders such as
`X0X`, which MT models and rule-based engines take for names. A translation that lost or doubled one is not used: then only
what stands between the kept parts is translated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from mtllm_ds.transfer_sets.translation.sentences import cut_in_two, split_sentences

_VERBATIM = re.compile(
    r"""
      ^[ \t]*(?P<fence>```+|~~~+).*?(?:^[ \t]*(?P=fence)[ \t]*$|\Z)     # a block of code, also one that does not end
    | <(?P<element>pre|code|script|style)\b.*?(?:</(?P=element)>|\Z)
    | \$\$.*?\$\$ | \\\[.*?\\\]                                         # mathematics on lines of its own
    | ^[ \t]*\|?[ \t]*:?-{3,}[-:| \t]*$                                 # the line below the head of a table, a rule
    | ^[ \t]*(?:\#{1,6}[ \t]+|>[ \t]?|[-*+•][ \t]+|\d{1,3}[.)][ \t]+)+  # heading, quotation, list item
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
_INLINE = re.compile(
    r"""
      (?P<ticks>`+)(?!`)[^\n]+?(?<!`)(?P=ticks)(?!`)
    | \\\(.*?\\\)
    | <!--.*?--> | </?[A-Za-z][^<>\n]*>
    | (?:\bhttps?://|\bftp://|\bwww\.)[^\s<>"'`]*[^\s<>"'`.,;:!?()\[\]{}]
    | [\w.+-]+@[\w-]+\.[\w.-]*\w
    | &\#?\w{1,31};
    | \{\{?\w+\}?\} | %\(\w+\)[sd] | %[sd]\b
    | [\U000F0000-\U000FFFFD]
    """,
    re.VERBOSE,
)
_FIRST_MARK = 0xF0000
_MARK = re.compile("[\U000f0000-\U000ffffd]")
_LETTER = re.compile(r"[^\W\d_]")
_PLACEHOLDER_LETTERS = "XQZWK"


class Sentence(NamedTuple):
    """A sentence and what of it must be kept; every kept part is one character of the private plane 15 in `marked`."""

    marked: str
    kept: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The sentence as it is."""
        parts = iter(self.kept)
        return _MARK.sub(lambda _: next(parts), self.marked)

    @property
    def halves(self) -> tuple[Sentence, Sentence]:
        """Cut in two, never inside a kept part; blanks at the cut are left out."""
        first, second = cut_in_two(self.marked)
        count = len(_MARK.findall(first))
        return Sentence(first, self.kept[:count]), Sentence(second, self.kept[count:])

    @property
    def asked(self) -> str:
        """What is translated: a placeholder for each kept part."""
        names = iter(self._placeholders)
        return _MARK.sub(lambda _: next(names), self.marked) if self.kept else self.marked

    @property
    def between(self) -> list[str]:
        """What stands between the kept parts, where there is something to translate."""
        return [part.strip() for part in _MARK.split(self.marked) if _LETTER.search(part)]

    def is_kept_in(self, translation: str) -> bool:
        """Each placeholder stands in it once, and no other."""
        if not self.kept:
            return True
        names = self._placeholders
        found = re.findall(rf"{names[0][0]}\d+{names[0][0]}", translation)
        return sorted(found) == sorted(names) and self.restored(self.asked) == self.text

    def restored(self, translation: str) -> str:
        """A translation of `asked` that has kept everything, with what was kept."""
        if not self.kept:
            return translation
        parts = dict(zip(self._placeholders, self.kept, strict=True))
        return re.sub(_any_placeholder(self._placeholders[0][0]), lambda name: parts[name[0]], translation)

    def around(self, translations: Mapping[str, str]) -> str:
        """What was kept where it stood, and translations of what is between."""
        parts = iter(self.kept)
        text = ""
        for part in re.split(f"({_MARK.pattern})", self.marked):
            if _MARK.fullmatch(part):
                text += next(parts)
            elif _LETTER.search(part):
                inner = part.strip()
                text += part.replace(inner, translations[inner])
            else:
                text += part
        return text

    @property
    def _placeholders(self) -> list[str]:
        taken = _PLACEHOLDER_LETTERS[:-1]
        # Beside a digit, a letter of the text could make a placeholder together with one that stands there.
        free = (letter for letter in taken if not re.search(rf"{letter}\d|\d{letter}", self.marked))
        letter = next(free, _PLACEHOLDER_LETTERS[-1])
        return [f"{letter}{number}{letter}" for number in range(len(self.kept))]


class Piece(NamedTuple):
    """What stands before a sentence, kept as it is, and the sentence; an empty one ends a text that ends in something kept."""

    gap: str
    sentence: Sentence


def plain_pieces(text: str) -> list[Piece]:
    """Sentences and the white space between them; nothing is kept."""
    return [Piece(gap, Sentence(sentence)) for gap, sentence in split_sentences(text)]


def masked_pieces(text: str) -> list[Piece]:
    """Sentences, and between them white space and what is kept."""
    pieces: list[Piece] = []
    gap, at = "", 0
    ends = [(found.start(), found.end()) for found in _VERBATIM.finditer(text)]
    for start, end in (*ends, (len(text), len(text))):
        found, rest = _prose_pieces(text[at:start])
        if found:
            pieces += [found[0]._replace(gap=gap + found[0].gap), *found[1:]]
            gap = ""
        gap += rest + text[start:end]
        at = end
    return [*pieces, Piece(gap, Sentence(""))] if gap.strip() else pieces


def _prose_pieces(text: str) -> tuple[list[Piece], str]:
    """Pieces of text without blocks, and what follows the last sentence."""
    kept: list[str] = []

    def hide(found: re.Match[str]) -> str:
        kept.append(found.group())
        return chr(_FIRST_MARK + len(kept) - 1)

    marked = _INLINE.sub(hide, text)
    pieces: list[Piece] = []
    gap = ""
    for before, sentence in split_sentences(marked):
        own = tuple(kept[ord(mark) - _FIRST_MARK] for mark in _MARK.findall(sentence))
        if _LETTER.search(sentence):
            pieces.append(Piece(gap + before, Sentence(sentence, own)))
            gap = ""
        else:
            gap += before + Sentence(sentence, own).text
    return pieces, gap + marked[len(marked.rstrip()) :]


def _any_placeholder(letter: str) -> str:
    return rf"{letter}\d+{letter}"
