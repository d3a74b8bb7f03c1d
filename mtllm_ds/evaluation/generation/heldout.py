"""Held-out dialogues, in the form of `prepare dialogues`: what is asked, what the teacher reads, what answers are compared with.

    {"id": "a", "language": "deu_Latn", "prompt": "Wie drucke ich?", "teacher_prompt": "How do I print?", "response": "..."}

`messages` and `teacher_messages` may stand in place of prompts. Optional are `response`, whose likelihood is measured (without
one it is what the untouched LLM answers to the teacher's prompt); `reference`, what answers are compared with, where that is not
the response; `bare_prompt` or `bare_messages`, what is left of a prompt without what it is about; and `group`, which related
prompts share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mtllm_ds.data.text.prompt_records import PromptRecord, prompt_of, read_prompts, require_unique
from mtllm_ds.data.text.prompts import Prompt, said
from mtllm_ds.languages import ENGLISH
from mtllm_ds.text_files import BadLineError


@dataclass(frozen=True, kw_only=True)
class Heldout:
    """One prompt and what belongs to it."""

    id: str
    group: str
    language: str
    prompt: Prompt
    teacher_prompt: Prompt
    """What the untouched LLM reads where it is the teacher"""
    bare_prompt: Prompt | None = None
    response: str | None = None
    reference: str | None = None
    place: str = ""


def read_heldout(files: Iterable[tuple[str | None, str]], limit: int | None = None) -> dict[str, list[Heldout]]:
    """Language -> its prompts, in their order; English first, asked with the teachers' prompts where no file has any.

    Args:
        files: (language of records that name none, path)
        limit: only the first so many of each language

    Raises:
        UserError: a file or a record cannot be used, or an id stands twice in one language.
    """
    found: dict[str, list[Heldout]] = {}
    for language, path in files:
        for record in read_prompts(path, language):
            item = _heldout(record)
            found.setdefault(item.language, []).append(item)
    for code, items in found.items():
        require_unique((item.id, item.place) for item in items)
        found[code] = items[:limit]
    english = found.pop(ENGLISH, None) or english_of([item for items in found.values() for item in items])[:limit]
    return ({ENGLISH: english} if english else {}) | found


def english_of(items: Sequence[Heldout]) -> list[Heldout]:
    """The English originals that teachers read, each once, as prompts of their own: what is kept of English is measured on them."""
    originals = [item for item in items if item.teacher_prompt != item.prompt]
    unique = {repr(item.teacher_prompt): item for item in reversed(originals)}
    return [
        replace(item, language=ENGLISH, prompt=item.teacher_prompt, response=None, reference=None)
        for item in originals
        if unique[repr(item.teacher_prompt)] is item
    ]


def digest(items: Sequence[Heldout]) -> str:
    """Of all that decides what is found of them; not of the place of their file."""
    rows = [asdict(replace(item, place="")) for item in items]
    return f"sha256:{hashlib.sha256(json.dumps(rows).encode()).hexdigest()}"


def as_chat(item: Heldout) -> Heldout:
    """The same with texts as what a user says."""
    bare = item.bare_prompt
    return replace(
        item,
        prompt=said(item.prompt),
        teacher_prompt=said(item.teacher_prompt),
        bare_prompt=None if bare is None else said(bare),
    )


def others(groups: Sequence[str]) -> list[int]:
    """For each prompt another one, of another group: the nearest at least half of the list away. There are several groups."""
    count = len(groups)
    return [
        next(other for step in range(count) if groups[other := (place + count // 2 + step) % count] != group)
        for place, group in enumerate(groups)
    ]


def _heldout(record: PromptRecord) -> Heldout:
    row, place = record.row, record.place
    if record.language is None:
        raise BadLineError(place, "no_field", "names no language; add it, or give the file as CODE=FILE")
    return Heldout(
        id=record.id,
        group=str(row.get("group", record.id)),
        language=record.language,
        prompt=record.prompt,
        teacher_prompt=_optional_prompt(place, row, "teacher") or record.prompt,
        bare_prompt=_optional_prompt(place, row, "bare"),
        response=_optional_text(place, row, "response"),
        reference=_optional_text(place, row, "reference"),
        place=place,
    )


def _optional_prompt(place: str, row: Mapping[str, Any], name: str) -> Prompt | None:
    names = f"{name}_prompt", f"{name}_messages"
    return prompt_of(place, row, *names) if any(row.get(one) is not None for one in names) else None


def _optional_text(place: str, row: Mapping[str, Any], name: str) -> str | None:
    text = row.get(name)
    if text is not None and not isinstance(text, str):
        raise BadLineError(place, "no_text", f"'{name}' is no text; mend the line, or leave it out")
    return text
