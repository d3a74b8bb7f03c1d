"""What a user gives `MTLLM`: texts, items, prompts, languages, a device; a mistake is one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from mtllm_ds.data.shards.manifest import TaskEntry
from mtllm_ds.data.text.prompts import Prompt
from mtllm_ds.errors import UserError

Languages = str | Sequence[str]


class AnyItem(Protocol):
    """What `MTLLM.predict` asks of an item."""

    @property
    def segments(self) -> tuple[str, ...]:
        """The text; or premise and hypothesis; or passage and question."""

    @property
    def options(self) -> tuple[str, ...]:
        """Multiple choice only."""


@dataclass(frozen=True)
class PlainItem:
    """Text, or texts that belong together, and the options of a multiple choice."""

    segments: tuple[str, ...]
    options: tuple[str, ...] = ()


def usable_device(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"device={device}: cannot be used ({reason}); use 'cpu' or one that is there") from error
    return place


def checked_texts(texts: Iterable) -> list:
    """The texts as a list, each known to be text, or a pair of texts."""
    if isinstance(texts, str | bytes):
        raise UserError(f"texts={texts[:30]!r}: one string, expected a list of texts; put it in a list")
    listed = list(texts)
    for number, text in enumerate(listed):
        for part in text if isinstance(text, tuple | list) else (text,):
            if not isinstance(part, str):
                shown = f"{type(part).__name__} {part!r}"[:60]
                raise UserError(f"texts[{number}]: not a string but {shown}; leave it out or decode it")
            _require_characters(part, f"texts[{number}]")
    return listed


def listed_prompts(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Prompts as a list; one text, or the messages of one, are told apart from several."""
    listed = [] if isinstance(prompts, str | bytes) else list(prompts)
    if isinstance(prompts, str | bytes) or any(isinstance(one, Mapping) for one in listed):
        raise UserError(f"prompts={str(prompts)[:30]!r}: one prompt, expected a list of them; put it in a list")
    return listed


def _require_characters(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: holds half a character (a lone surrogate); mend or remove it") from error


def check_batch_size(batch_size: int) -> None:
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise UserError(f"batch_size={batch_size}: not a whole number from 1 up; leave it out for 32")


def one_each(lang: Languages, items: Sequence[object]) -> Sequence[str]:
    """A code an item."""
    if isinstance(lang, str):
        return [lang] * len(items)
    lang = list(lang)
    if len(lang) != len(items):
        raise UserError(f"lang: {len(lang)} languages for {len(items)} texts; give one, or one for each text")
    return lang


def check_item(item: AnyItem, task: TaskEntry, number: int) -> None:
    where = f"item {number} of the task '{task.name}'"
    if task.type == "multiple_choice":
        if not 2 <= len(item.options) <= len(task.labels):
            raise UserError(
                f"{where}: {len(item.options)} options, a multiple choice has 2 to {len(task.labels)}; mend the item"
            )
    elif item.options:
        raise UserError(
            f"{where}: it has options, but this {task.type.replace('_', ' ')} has none; use predict without"
        )
    expected = {"classification": 1, "pair_classification": 2}.get(task.type, len(item.segments))
    if len(item.segments) != expected:
        raise UserError(
            f"{where}: {len(item.segments)} segments, a {task.type.replace('_', ' ')} has {expected}; mend the item"
        )
