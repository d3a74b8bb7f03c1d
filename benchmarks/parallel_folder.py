"""A folder of parallel text, as benchmarks are given one: which file a language has, and what of it is held out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtllm_ds.data.writing.filters import normalized_hash
from mtllm_ds.data.writing.sources import InputFile
from mtllm_ds.errors import UserError
from mtllm_ds.languages import ENGLISH

_VALID, _TEST, _ALL = 4, 8, 100
"""Shares of the lines, by the hash of their English side: 4% and 8% of 100."""


def file_of(folder: Path, code: str) -> InputFile:
    """The parallel text of a language: its side is `text`, the English one the second segment."""
    jsonl = folder / f"parallel_{code}.jsonl.xz"
    for tsv in (folder / f"{code}.tsv.xz", folder / f"parallel_{code}.tsv.xz"):
        if tsv.is_file():
            return InputFile(path=str(tsv), language=code, text_field="2", second_text_field="1")
    if jsonl.is_file():
        return InputFile(path=str(jsonl), language=code, text_field="text", second_text_field="text_en")
    raise UserError(
        f"TEXT={folder}: has no {code}.tsv.xz, parallel_{code}.tsv.xz or {jsonl.name}; give a folder with parallel text of {code}"
    )


def require_languages(folder: Path, languages: Sequence[str], budget: str) -> None:
    """One line that names every language without a file."""
    missing = []
    for code in languages:
        try:
            file_of(folder, code) if code != ENGLISH else None
        except UserError:
            missing.append(code)
    if missing:
        raise UserError(
            f"TEXT={folder}: BUDGET={budget} lacks parallel text of {', '.join(missing)}; "
            f'`make help-text HELP_LANGUAGES="{" ".join(code for code in languages if code != ENGLISH)}"` fetches it '
            "(then TEXT=runs/bases/help_text), or name a folder that has CODE.tsv.xz of each"
        )


def split_of(english: str) -> str:
    """Where a line goes, train, valid or test: by its English side, so that no language trains on what another one is tested on."""
    number = int(normalized_hash(english), 16) % _ALL
    return "test" if number < _TEST else "valid" if number < _TEST + _VALID else "train"
