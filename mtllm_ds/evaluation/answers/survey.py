"""A look at every item before any work: mistakes are told at once, and all ranks know what there is to do."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.items.items import Item, load_items
from mtllm_ds.evaluation.items.masking import Setting, in_setting
from mtllm_ds.evaluation.items.tasks import Task

Wanted = Literal["plain", "masked", "both"]
Read = Literal["text", "originals"]
"""What a system reads: the items' own text, or their English originals (a ceiling)."""


@dataclass(frozen=True)
class LanguageSurvey:
    """The test items of one language."""

    num_items: int
    translated: bool
    """every item has an English original"""
    sha256: str
    """of all that a system could see, the tag of a translation included, and of the labels"""


class Unit(NamedTuple):
    """One language in one setting: what is finished as a whole."""

    language: str
    setting: Setting
    num_items: int

    @property
    def key(self) -> str:
        return f"{self.setting}/{self.language}"


def survey(task: Task, languages: Sequence[str], limit: int | None = None) -> dict[str, LanguageSurvey]:
    """Read the test items of every language and keep none of them. Raises what `load_items` raises."""
    found = {}
    for language in languages:
        items = load_items(task, "test", language, limit)
        translated = all(item.original is not None for item in items)
        found[language] = LanguageSurvey(len(items), translated, _digest(items, task.read_as.get(language, "")))
    return found


def plan_units(task: Task, surveys: Mapping[str, LanguageSurvey], wanted: Wanted, read: Read = "text") -> list[Unit]:
    """What is to be answered, a language after the other; masked text and originals only where there are English originals.

    Raises `UserError` if nothing is left.
    """
    settings: dict[Wanted, tuple[Setting, ...]] = {
        "plain": ("plain",), "masked": ("copy_masked",), "both": ("plain", "copy_masked"),
    }  # fmt: skip
    units = [
        Unit(language, setting, found.num_items)
        for language, found in surveys.items()
        for setting in settings[wanted]
        if found.translated or (setting == "plain" and read == "text")
    ]
    if not units:
        raise UserError(
            f"task {task.name}: no language that was asked for has English originals, which masking and --read originals "
            "need; use --setting plain --read text"
        )
    return units


def read_unit(task: Task, unit: Unit, limit: int | None, read: Read) -> list[Item]:
    """The items of a unit as a system reads them."""
    items = in_setting(load_items(task, "test", unit.language, limit), unit.setting)
    return items if read == "text" else [item.original for item in items if item.original is not None]


def _digest(items: Sequence[Item], tag: str) -> str:
    return hashlib.sha256(("\n".join(map(repr, items)) + tag).encode("utf-8", "surrogatepass")).hexdigest()
