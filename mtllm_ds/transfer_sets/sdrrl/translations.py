"""Stage 3: questions and answers in another language, sentence by sentence, and the questions' parts for mixed ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from mtllm_ds.languages import ENGLISH
from mtllm_ds.transfer_sets.sdrrl.stages import Row
from mtllm_ds.transfer_sets.translation.kept import masked_pieces
from mtllm_ds.transfer_sets.translation.translator import Progress, Translator

_FEWEST_WORDS = 6
"""Of a question of one sentence that is cut in two."""


def translate_answers(
    answers: Sequence[Row], translator: Translator, language: str, by: Row, progress: Progress
) -> tuple[list[Row], Counter[str]]:
    """A row per answer, in their order, and counts: `kept`, or `untranslated` where question or answer came back as it was.

    A row's `parts` are [white space before, English, translation] of the question's sentences, or of the halves of one sentence.
    """
    parts = [question_parts(row["prompt"]) for row in answers]
    texts = [
        text
        for row, own in zip(answers, parts, strict=True)
        for text in (row["prompt"], row["response"], *(part for _, part in own))
    ]
    found = iter(translator.translate(texts, ENGLISH, language, progress=progress))
    rows: list[Row] = []
    counts: Counter[str] = Counter()
    for row, own in zip(answers, parts, strict=True):
        prompt, response = next(found), next(found)
        mixed = [[gap, english, _as_begun(next(found), english)] for gap, english in own]
        same = prompt == row["prompt"] or (response == row["response"] and re.search(r"[^\W\d_]{2}", response))
        rejected = {"rejected": "untranslated"} if same or not response.strip() else {}
        counts[rejected.get("rejected", "kept")] += 1
        rows.append({"id": row["id"], "prompt": prompt, "response": response, "parts": mixed, **rejected, "by": by})
    return rows, counts


def question_parts(question: str) -> list[tuple[str, str]]:
    """(what stands before, part): sentences; of one sentence its two halves, and nothing of one below six words."""
    pieces = [piece for piece in masked_pieces(question) if piece.sentence.marked]
    if len(pieces) > 1:
        return [(piece.gap, piece.sentence.text) for piece in pieces]
    if not pieces or len(pieces[0].sentence.marked.split()) < _FEWEST_WORDS:
        return []
    first, second = pieces[0].sentence.halves
    return [(pieces[0].gap, first.text), (" ", second.text)]


def _as_begun(translation: str, english: str) -> str:
    """Without the capital that a translator puts at the beginning of what it takes for a sentence."""
    if english[:1].islower() and translation[:1].isupper():
        return translation[:1].lower() + translation[1:]
    return translation
