"""Text in two languages, written or translated by people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtllm_ds.data.writing.filters import normalized_hash
from mtllm_ds.data.writing.sources import InputFile, SourceReader


def read_parallel(files: Sequence[str], language: str, exclusions: frozenset[bytes]) -> list[tuple[str, str]]:
    """(English, text) of TSV files (English, a tab, the text) and JSON lines (`text_en`, `text`); each pair once.

    Left out are pairs of which one side is empty, is on the exclusion list, or equals the other.
    """
    pairs: dict[tuple[str, str], None] = {}
    for path in files:
        english, text = ("1", "2") if ".tsv" in Path(path).suffixes else ("text_en", "text")
        for document in SourceReader(
            InputFile(path=path, language=language, text_field=english, second_text_field=text)
        ):
            first, second = document.segments
            hashes = {bytes.fromhex(normalized_hash(side)) for side in (first, second)}
            if first and second and first != second and not hashes & exclusions:
                pairs[first, second] = None
    return list(pairs)
