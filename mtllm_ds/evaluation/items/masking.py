"""Copy-masking: what a translation merely copies from its English original is taken out of both.

Names such as `LibreOffice` survive translation, so zero-shot scores on plain text flatter every method. Scores are reported
twice: on the plain text, and on the text without the tokens that also stand in the original.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.items.items import Item

_LATIN = "A-Za-z0-9\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
TOKEN = re.compile(rf"[{_LATIN}]+(?:[._+\-'/][{_LATIN}]+)*|[^\W_{_LATIN}]+")
"""A run of Latin letters, accented ones included, and digits, joined inside by one of `. _ + - ' /`; or a run of letters of any
other script. In a script without spaces such a run is a whole phrase: it stands in no English text and so is never dropped."""

Setting = Literal["plain", "copy_masked"]
SETTINGS: tuple[Setting, ...] = ("plain", "copy_masked")


def tokens(text: str) -> list[str]:
    """Lower-cased tokens of a text, in order."""
    return [token.lower() for token in TOKEN.findall(text)]


def without_copies(text: str, other: str) -> str:
    """`text` without the tokens that also stand in `other`, whatever their case; empty if no letter or digit is left."""
    return _without(text, set(tokens(other)))


def masked_translation(translation: str, text: str, original: str) -> str:
    """A translation of the plain `text`, without the tokens that `text` copies from its English original.

    Masking after translation, for translate-test: the MT model reads whole sentences and still no copy reaches the classifier.
    (Masking before translation is translating what `copy_masked` leaves.)
    """
    return _without(translation, set(tokens(text)) & set(tokens(original)))


def _without(text: str, copied: set[str]) -> str:
    """Copies are cut out and nothing else is touched: capitals, accents, vowel signs and marks are what a model learned to read."""
    left = TOKEN.sub(lambda found: "" if found[0].lower() in copied else found[0], text)
    return " ".join(left.split()) if any(character.isalnum() for character in left) else ""


def copy_masked(item: Item) -> Item:
    """The item without what it shares with its English original, and the original without what it shares with the item.

    Segments and options are compared one by one, each with its own counterpart. Raises `UserError` if there is no original.
    """
    original = item.original
    if original is None:
        raise UserError(
            f"item {item.id}: has no English original, which copy-masking needs; report the plain setting only"
        )
    if len(item.segments) != len(original.segments) or len(item.options) != len(original.options):
        raise UserError(
            f"item {item.id}: it and its English original differ in the number of segments or options; mend the data"
        )

    def masked(these: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(without_copies(text, other) for text, other in zip(these, others, strict=True))

    return replace(
        item,
        segments=masked(item.segments, original.segments),
        options=masked(item.options, original.options),
        original=replace(
            original,
            segments=masked(original.segments, item.segments),
            options=masked(original.options, item.options),
        ),
    )


def in_setting(items: list[Item], setting: Setting) -> list[Item]:
    """Items as a setting shows them."""
    return items if setting == "plain" else [copy_masked(item) for item in items]
