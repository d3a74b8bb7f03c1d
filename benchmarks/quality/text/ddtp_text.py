"""Text around the task `ddtp_topics`: parallel text for an MT model, English for stage 1, pairs to validate on. Pure functions.

Nothing of it is near a test item: packages of test groups are left out, and so are those whose description gives away a test item
by its words (`split_packages`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from benchmarks.quality.text.ddtp import Package, Splits, paragraphs_of, plain_text
from mtllm_ds.transfer_sets.translation.sentences import split_sentences

MAX_CHARACTERS = 400
MAX_RATIO = 2.5
"""How many times the length of the other side of its language's usual ratio a side may have: longer ones are no translation."""


def parallel(packages: Iterable[Package], translations: Mapping[str, str]) -> dict[str, str]:
    """English segment -> its translation: titles, paragraphs, and their sentences where both sides have as many.

    `translations[md5]` is a description in the other language. Of several translations the first stays.
    """
    found: dict[str, str] = {}
    for package in packages:
        translated = translations.get(package.md5)
        if translated is None:
            continue
        for pair in _segments(package.description, translated):
            english, foreign = (" ".join(text.split()) for text in pair)
            if english and foreign and english != foreign and max(len(english), len(foreign)) <= MAX_CHARACTERS:
                found.setdefault(english, foreign)
    usual = sum(map(len, found.values())) / max(1, sum(map(len, found)))
    return {e: f for e, f in found.items() if 1 / MAX_RATIO <= len(f) / (usual * len(e)) <= MAX_RATIO}


def _segments(english: str, foreign: str) -> Iterable[tuple[str, str]]:
    """Pairs of titles, paragraphs and sentences; a description of another number of paragraphs gives its title alone."""
    yield english.partition("\n")[0], foreign.partition("\n")[0]
    bodies = [paragraphs_of(text.partition("\n")[2]) for text in (english, foreign)]
    if len(bodies[0]) != len(bodies[1]):
        return
    for pair in zip(*bodies, strict=True):
        yield pair
        sentences = [[piece.sentence for piece in split_sentences(text)] for text in pair]
        if len(sentences[0]) == len(sentences[1]) > 1:
            yield from zip(*sentences, strict=True)


def validation_pairs(splits: Splits, translations: Mapping[str, str]) -> list[dict]:
    """Validation items that the language has: rows with `text` (translated) and `text_en`, whole items both."""
    rows = []
    for package in splits.valid:
        translated = translations.get(package.md5, "")
        if "\n" in translated:
            rows.append({"text": plain_text(translated), "text_en": plain_text(package.description)})
    return rows


def documents(splits: Splits) -> list[dict]:
    """English descriptions that are free or for validation, one document a group of related packages (field `page`)."""
    found: dict[str, list[dict]] = {}
    for package in (*splits.free, *splits.valid):
        text = {"kind": "p", "text": plain_text(package.description)}
        listed = found.setdefault(splits.groups[package.name], [])
        if text not in listed:
            listed.append(text)
    return [{"page": group, "paragraphs": listed} for group, listed in found.items()]
