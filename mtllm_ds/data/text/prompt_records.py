"""Prompts in files: a text per line, or records in JSON lines.

    {"id": "a", "language": "deu_Latn", "prompt": "Wie drucke ich?"}
    {"id": "b", "language": "deu_Latn", "messages": [{"role": "user", "content": "Wie drucke ich?"}]}

Other fields of a record are kept for whoever asks for them. What a prompt has to be is said by `PromptReader`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtllm_ds.data.text.prompts import Prompt
from mtllm_ds.errors import UserError
from mtllm_ds.languages import check_language
from mtllm_ds.text_files import COMPRESSIONS, BadLineError, decoded, json_object, lines_of

STDIN = "-"
_RECORDS, _TEXTS = (".jsonl", ".json", ".ndjson"), (".txt",)


@dataclass(frozen=True)
class PromptRecord:
    """One prompt of a file."""

    id: str
    """Its own, or the number of its line"""
    language: str | None
    prompt: Prompt
    place: str
    """File and line, for messages"""
    row: Mapping[str, Any] = field(default_factory=dict)
    """The whole record"""


def read_prompts(source: str, language: str | None = None) -> list[PromptRecord]:
    """Prompts of a file (.jsonl, or .txt with a text per line; .gz .xz .bz2 .zst), or of standard input, where lines that begin
    with a brace are records.

    Args:
        source: the file, `-` for standard input
        language: FLORES-200 code of prompts that name none

    Raises:
        UserError: the file is missing, damaged, empty or no such file, or a line is no prompt.
    """
    code = None if language is None else check_language(language)
    found = list(_records(source, code))
    if not found:
        raise UserError(f"--input={source}: holds no prompt; give one per line")
    return found


def require_unique(entries: Iterable[tuple[str, str]]) -> None:
    """Refuse an id that stands twice; entries are (id, place)."""
    places: dict[str, str] = {}
    for name, place in entries:
        if name in places:
            raise UserError(f"{place}: the id '{name}' stands at {places[name]} too; name each once")
        places[name] = place


def prompt_of(place: str, row: Mapping[str, Any], text: str, several: str) -> Prompt:
    """A record's prompt, from the field that holds a text or the one that holds messages.

    Raises:
        BadLineError: it has both, or neither.
    """
    given = [name for name in (text, several) if row.get(name) is not None]
    if len(given) != 1:
        raise BadLineError(place, "no_field", f"holds {len(given)} of '{text}' and '{several}'; give one of them")
    found: Prompt = row[given[0]]
    if given[0] == text and not isinstance(found, str):
        raise BadLineError(place, "no_text", f"'{text}' is no text; give messages as '{several}'")
    return found


def _records(source: str, language: str | None) -> Iterator[PromptRecord]:
    lines = _lines(source)
    first = next(lines, None)
    if first is None:
        return
    holds_records = _suffix(source) in _RECORDS if source != STDIN else first[1].lstrip().startswith(b"{")
    for number, (place, line) in enumerate((first, *lines), start=1):
        if not holds_records:
            yield PromptRecord(str(number), language, decoded(place, line), place)
            continue
        row = json_object(place, line)
        own = _language(place, row["language"]) if row.get("language") is not None else language
        yield PromptRecord(str(row.get("id", number)), own, prompt_of(place, row, "prompt", "messages"), place, row)


def _lines(source: str) -> Iterator[tuple[str, bytes]]:
    if source == STDIN:
        return lines_of("standard input", sys.stdin.buffer)
    if not Path(source).is_file():
        raise UserError(f"--input={source}: no file there; name one, or - for standard input")
    if _suffix(source) not in (*_RECORDS, *_TEXTS):
        raise UserError(
            f"--input={source}: cannot tell the format by its name; name records .jsonl, and a file of one text per line .txt"
        )
    return lines_of(source)


def _suffix(source: str) -> str:
    path = Path(source)
    return Path(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix


def _language(place: str, given: Any) -> str:
    try:
        return check_language(str(given))
    except UserError as error:
        raise BadLineError(place, "unknown_language", str(error)) from error
