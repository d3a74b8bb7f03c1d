"""Translated tasks: test items into English (translate-test), English training items into other languages (translate-train)
or there and back (round trip), as ordinary task folders that every other command reads.

Each field of an item (segment or option) is translated on its own, sentence by sentence.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import yaml

from mtllm_ds.atomic import write_text
from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.items.items import Item
from mtllm_ds.evaluation.items.masking import copy_masked, masked_translation
from mtllm_ds.evaluation.items.tasks import Split, Task

Translate = Callable[[Sequence[str]], list[str]]
"""texts of one language -> their translations"""
Reading = Literal["plain", "masked_before", "masked_after"]
READINGS: tuple[Reading, ...] = ("plain", "masked_before", "masked_after")
"""What translate-test reads: the translation; the translation of the copy-masked text; the copy-masked translation."""
TASK_FILE = "task.yaml"


def translated(items: Sequence[Item], translate: Translate) -> list[Item]:
    """The items with every field translated; originals stay as they are."""
    fields = [field for item in items for field in (*item.segments, *item.options)]
    outputs = iter(translate(fields))
    return [
        replace(
            item,
            segments=tuple(next(outputs) for _ in item.segments),
            options=tuple(next(outputs) for _ in item.options),
        )
        for item in items
    ]


def read_in_english(items: Sequence[Item], translate: Translate, reading: Reading) -> list[Item]:
    """Foreign test items as a classifier of English gets them; raises `UserError` where masking lacks the English original."""
    if reading == "plain":
        return translated(items, translate)
    if reading == "masked_before":
        return translated([copy_masked(item) for item in items], translate)
    return [_masked_after(plain, foreign) for plain, foreign in zip(translated(items, translate), items, strict=True)]


def _masked_after(translation: Item, foreign: Item) -> Item:
    original = foreign.original
    if original is None:
        raise UserError(
            f"item {foreign.id}: has no English original, which copy-masking needs; read the plain translation only"
        )

    def masked(outputs: tuple[str, ...], texts: tuple[str, ...], originals: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(masked_translation(*fields) for fields in zip(outputs, texts, originals, strict=True))

    return replace(
        translation,
        segments=masked(translation.segments, foreign.segments, original.segments),
        options=masked(translation.options, foreign.options, original.options),
    )


def share_of(item: Item, languages: Sequence[str]) -> str:
    """The one of `languages` that an English item makes its round trip through: the same for the same id."""
    return languages[zlib.crc32(item.id.encode()) % len(languages)]


def some_of(items: Sequence[Item], count: int | None, language: str) -> list[Item]:
    """`count` of the items (None: all), in their order: others for each language, the same ones each time."""
    if count is None:
        return list(items)

    def draw(item: Item) -> int:
        return zlib.crc32(f"{language} {item.id}".encode())

    chosen = {item.id for item in sorted(items, key=draw)[:count]}
    return [item for item in items if item.id in chosen]


def round_trip(
    items: Sequence[Item], languages: Sequence[str], there_and_back: Callable[[str], Translate]
) -> list[Item]:
    """English items translated into one of the languages and back, in their order; each goes through `share_of` it."""
    found: dict[str, Item] = {}
    for language in languages:
        chosen = [item for item in items if share_of(item, languages) == language]
        found |= {item.id: new for item, new in zip(chosen, translated(chosen, there_and_back(language)), strict=True)}
    return [found[item.id] for item in items]


def write_task(
    folder: Path,
    task: Task,
    items: Mapping[tuple[Split, str], Sequence[Item]],
    read_as: Mapping[str, str] | None = None,
) -> Path:
    """Write items by (split, language) as JSON lines and `task.yaml`, which is returned: `--task` of every other command.

    The task keeps its name, labels and languages, so that predictions on it stand in one table with all others. `read_as` says
    which languages' items are in another language now, and with which tag they are read.
    """
    for (split, language), listed in items.items():
        rows = (json.dumps(_row(item), ensure_ascii=False) + "\n" for item in listed)
        write_text(folder / f"{split}_{language}.jsonl", "".join(rows))
    num_segments = {"classification": 1}.get(task.type, 2)
    fields = {
        "segments": [f"text_{number}" for number in range(1, num_segments + 1)],
        "options": ["options"] if task.type == "multiple_choice" else [],
        "id": ["id"],
        "group": ["group"],
    }
    described = task.model_dump(mode="json", exclude={"source", "training_source", "configs"})
    # English of a training source need not be one of the task's languages; here it has a file like any other.
    described["languages"] = list(dict.fromkeys((*task.languages, *(language for _, language in items))))
    described["read_as"] = dict(read_as or {})
    described["source"] = {"folder": str(folder.resolve()), "fields": fields}
    write_text(folder / TASK_FILE, yaml.safe_dump(described, sort_keys=False, allow_unicode=True))
    return folder / TASK_FILE


def _row(item: Item) -> dict[str, str | list[str]]:
    row: dict[str, str | list[str]] = {"id": item.id, "group": item.group, "label": item.label}
    row |= {f"text_{number}": text for number, text in enumerate(item.segments, start=1)}
    return row | ({"options": list(item.options)} if item.options else {})


def chrf(translations: Sequence[str], references: Sequence[str]) -> float:
    """Corpus chrF2 (sacrebleu's default: 6 characters, beta 2), 0 to 100."""
    try:
        import sacrebleu
    except ImportError as error:
        raise UserError("chrF: needs the package sacrebleu; pip install sacrebleu") from error
    return float(sacrebleu.corpus_chrf(list(translations), [list(references)]).score)
