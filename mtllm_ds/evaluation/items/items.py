"""Items of a task, read from a local folder of JSON lines or through `datasets`, all in one shape."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mtllm_ds.config.hub import go_offline_if_away
from mtllm_ds.config.shipped import shipped_place
from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.items.tasks import Fields, Source, Split, Task
from mtllm_ds.languages import ENGLISH
from mtllm_ds.text_files import json_object, lines_of


@dataclass(frozen=True)
class Item:
    """One item in one language."""

    id: str
    """The same in every language, and no other item's in its split."""
    group: str
    """Items of a group are related: statistics resample groups."""
    label: str
    segments: tuple[str, ...]
    """The text; or premise and hypothesis; or passage and question."""
    options: tuple[str, ...] = ()
    """Multiple choice only; `label` is the number of the right one, from 1."""
    original: Item | None = None
    """The English item that this one is a translation of, where there is one."""


def load_items(
    task: Task, split: Split, language: str = ENGLISH, limit: int | None = None, seed: int = 0
) -> list[Item]:
    """Items of one split and language in their order; `limit` draws that many at random, the same for the same seed.

    Raises `UserError` if the data is missing, a label is not the task's, a column is missing, two items have one id or there is no
    item.
    """
    source = task.source_of(split)
    items = list(_read(task, source, split, language))
    if not items:
        raise UserError(f"task {task.name}: the {split} split of {language} is empty; check {_place(source)}")
    if source.aligned and language != ENGLISH and split == "test":
        items = _with_originals(items, _read(task, source, split, ENGLISH))
    if limit is not None and limit < len(items):
        chosen = sorted(random.Random(seed).sample(range(len(items)), limit))
        items = [items[i] for i in chosen]
    return items


def _with_originals(items: list[Item], english: Iterator[Item]) -> list[Item]:
    """Items joined to the English ones of the same id, whose groups they take: those are the same in every language."""
    originals = {item.id: item for item in english}
    return [
        replace(item, original=originals[item.id], group=originals[item.id].group) if item.id in originals else item
        for item in items
    ]


def _read(task: Task, source: Source, split: Split, language: str) -> Iterator[Item]:
    config = task.config_of(language)
    rows = _folder_rows(source, split, config) if source.folder is not None else _hub_rows(source, split, config)
    place_of_id: dict[str, str] = {}
    for number, (place, row) in enumerate(rows):
        where = f"task {task.name}, {place}"
        _require(source.fields, row, where)
        item = _item(source, row, number)
        if item.label not in task.labels:
            raise UserError(
                f"{where}: label '{item.label}' is not one of the task's ({', '.join(task.labels)}); mend the item or the task"
            )
        if item.options and int(item.label) > len(item.options):
            raise UserError(f"{where}: label '{item.label}' of {len(item.options)} options; mend the item")
        if (first := place_of_id.setdefault(item.id, place)) != place:
            raise UserError(
                f"{where}: id '{item.id}' stands at {first} too; give each item an id of its own, or name the columns "
                "that make one in source.fields.id"
            )
        yield item


def _item(source: Source, row: dict[str, Any], number: int) -> Item:
    fields = source.fields
    identity = "-".join(str(row[name]) for name in fields.id) if fields.id else str(number)
    group = _digest([row[name] for name in fields.group]) if fields.group else identity
    label = str(row[fields.label])
    listed = len(fields.options) == 1 and isinstance(row[fields.options[0]], list)
    options = row[fields.options[0]] if listed else [row[name] for name in fields.options]
    item = Item(
        id=identity,
        group=group,
        label=source.label_names.get(label, label),
        segments=tuple(str(row[name]) for name in fields.segments),
        options=tuple(map(str, options)),
    )
    if fields.original is None or fields.original not in row:
        return item
    return replace(item, original=replace(item, segments=(str(row[fields.original]),)))


def _require(fields: Fields, row: dict[str, Any], where: str) -> None:
    for name in (*fields.segments, *fields.options, fields.label, *fields.id, *fields.group):
        if name not in row:
            raise UserError(f"{where}: no field '{name}'; there are {', '.join(row)}")


def _folder_rows(source: Source, split: Split, config: str) -> Iterator[tuple[str, dict[str, Any]]]:
    assert source.folder is not None
    path = shipped_place(source.folder) / source.files.format(split=source.splits[split], config=config)
    if not path.is_file():
        path = path.with_name(f"{path.name}.xz")
    if not path.is_file():
        raise UserError(
            f"{path.with_suffix('')}: no such file, neither plain nor .xz; name the folder of the task's data"
        )
    for place, line in lines_of(str(path)):
        yield place, json_object(place, line)


def _hub_rows(source: Source, split: Split, config: str) -> Iterator[tuple[str, dict[str, Any]]]:
    go_offline_if_away()
    try:
        import datasets
    except ImportError as error:
        raise UserError("--task: data sets of the hub need the package datasets; pip install datasets") from error
    assert source.hub is not None
    name = None if source.config is None else source.config.format(config=config)
    data_dir = None if source.data_dir is None else source.data_dir.format(config=config)
    place = f"{source.hub} {name or data_dir or ''}".strip()
    try:
        rows = datasets.load_dataset(
            source.hub, name=name, data_dir=data_dir, split=source.splits[split], revision=source.revision
        )
    except (OSError, ValueError, RuntimeError) as error:  # missing, offline, no such configuration or split, a script
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"data set {place}, split {source.splits[split]}: {reason}; name a local folder instead"
        ) from error
    label = rows.features.get(source.fields.label)
    names = label if isinstance(label, datasets.ClassLabel) else None
    for number, row in enumerate(rows):
        if names is not None:
            row[source.fields.label] = names.int2str(row[source.fields.label])
        yield f"{place}, row {number}", row


def _digest(values: list[Any]) -> str:
    return hashlib.sha256("\x1f".join(map(str, values)).encode()).hexdigest()[:12]


def _place(source: Source) -> str:
    return str(source.folder or source.hub)
