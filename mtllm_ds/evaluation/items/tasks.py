"""Tasks as YAML files: what is asked, in which languages, and where the items are.

A language of a task is named by its FLORES-200 code, whatever the data set calls it (`configs`). Where NLLB has no tag for a
language, `tag_proxies` names the tag that stands in; tables star such a language and leave it out of means. Where a language's
text was translated, `read_as` names the tag of what it is in now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mtllm_ds.config.shipped import TASKS, find_file
from mtllm_ds.errors import UserError
from mtllm_ds.languages import ENGLISH, FLORES_200, check_language, nearest_code

NOT_IN_NLLB = frozenset({"arb_Latn", "min_Arab"})
"""Codes of FLORES-200 that no tokenizer of NLLB-200 knows."""

Split = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class TaskFacts:
    """What tables need to know about a task, kept with predictions."""

    task: str
    tag_proxies: dict[str, str] = field(default_factory=dict)
    """Languages read with another language's tag: starred, and left out of means."""
    development_languages: list[str] = field(default_factory=list)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fields(_Section):
    """Columns of a data set."""

    segments: tuple[str, ...]
    """The text; or premise and hypothesis; or passage and question."""
    options: tuple[str, ...] = ()
    """Multiple choice: a column an option, or one column that holds the list of them."""
    label: str = "label"
    id: tuple[str, ...] = ()
    """Columns that name an item, the same in every language; the row's number if there is none."""
    group: tuple[str, ...] = ()
    """Items alike in these columns are related, and resampled together; each item is its own group if there is none."""
    original: str | None = None
    """The column of the English original, where the data set has one."""


class Source(_Section):
    """Where items are: a data set of the hub (or a local folder of that layout), or a local folder of JSON lines."""

    hub: str | None = None
    """Name on the Hugging Face hub, or a local folder of the same layout."""
    revision: str | None = None
    config: str | None = "{config}"
    """Name of the configuration; `{config}` is the data set's name of the language."""
    data_dir: str | None = None
    """Folder inside the data set, for those without configurations; `{config}` as above."""
    folder: str | None = None
    """Local folder of JSON lines, plain or `.xz`."""
    files: str = "{split}_{config}.jsonl"
    splits: dict[Split, str] = {"train": "train", "valid": "valid", "test": "test"}
    """What the data set calls the splits that it has."""
    fields: Fields
    label_names: dict[str, str] = {}
    """The data set's labels, where they are not the task's."""
    aligned: bool = False
    """Items of the same id are translations of each other, so that the English ones are the originals."""

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if (self.hub is None) == (self.folder is None):
            raise ValueError("give either hub (a data set's name) or folder (a local path), and not both")
        return self


class Task(_Section):
    """One task with its languages."""

    name: str
    type: Literal["classification", "pair_classification", "multiple_choice"]
    labels: tuple[str, ...] = Field(min_length=2)
    """Class names; for multiple choice the numbers of the options, from 1."""
    languages: tuple[str, ...] = Field(min_length=1)
    development_languages: tuple[str, ...] = ()
    """Variants are compared on these only; all others confirm."""
    configs: dict[str, str] = {}
    tag_proxies: dict[str, str] = {}
    read_as: dict[str, str] = {}
    """Languages whose text here is a translation, and the tag of the language it is in; not starred for that."""
    source: Source
    training_source: Source | None = None
    """Where English training and validation items are, if not in `source`."""

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        for code in self.languages:
            if code not in self.tag_proxies:
                _require_tag(code)
            elif _has_tag(code):
                raise ValueError(f"tag_proxies.{code}: NLLB has a tag for it; remove the proxy")
        for tag in (*self.tag_proxies.values(), *self.read_as.values()):
            _require_tag(tag)
        for name, listed in (
            ("configs", self.configs),
            ("tag_proxies", self.tag_proxies),
            ("read_as", self.read_as),
            ("development_languages", self.development_languages),
        ):
            for code in listed:
                if code not in self.languages:
                    raise ValueError(f"{name}: '{code}' is not among the languages; add it there or remove it")
        for values in (self.labels, self.languages):
            if len(set(values)) != len(values):
                raise ValueError(f"'{max(values, key=values.count)}' is listed twice; remove one")
        for source in (self.source, self.training_source):
            if source is not None:
                self._check_fields(source.fields)
        return self

    def _check_fields(self, fields: Fields) -> None:
        expected = {"classification": 1, "pair_classification": 2, "multiple_choice": 2}[self.type]
        if len(fields.segments) != expected:
            raise ValueError(
                f"fields.segments: a task of type {self.type} has {expected}, found {len(fields.segments)}"
            )
        if bool(fields.options) != (self.type == "multiple_choice"):
            raise ValueError(f"fields.options: needed by multiple_choice and by no other type, here it is {self.type}")

    def config_of(self, language: str) -> str:
        """What the data set calls a language."""
        return self.configs.get(language, language)

    def tag_of(self, language: str) -> str:
        """The tag that the MT encoder reads a language's text with."""
        return self.read_as.get(language) or self.tag_proxies.get(language, language)

    @property
    def facts(self) -> TaskFacts:
        """What is kept with predictions, so that tables need no task file."""
        return TaskFacts(self.name, dict(self.tag_proxies), list(self.development_languages))

    def source_of(self, split: Split) -> Source:
        """Where a split's items are; raises `UserError` if the task has no such split."""
        source = self.training_source if split != "test" and self.training_source else self.source
        if split not in source.splits:
            raise UserError(f"task {self.name}: it has no {split} split; there are {', '.join(source.splits)}")
        return source

    def select(self, wanted: Sequence[str], split: Split = "test") -> tuple[str, ...]:
        """The languages that are asked for; `all` stands for every one that the split has.

        Raises `UserError` for any other; a training source has English only.
        """
        english_only = split != "test" and self.training_source is not None
        languages = (ENGLISH,) if english_only else self.languages
        if list(wanted) == ["all"]:
            return languages
        for code in wanted:
            if code not in languages:
                if english_only:
                    raise UserError(f"task {self.name}: its {split} items are English, not '{code}'; ask for {ENGLISH}")
                nearest = nearest_code(code, self.languages)
                raise UserError(f"task {self.name}: it has no language '{code}'; did you mean '{nearest}'?")
        return tuple(wanted)

    def located(self, data: str | None = None, training_data: str | None = None) -> Task:
        """The same task with its data elsewhere: another hub name or another local folder."""
        update: dict[str, Source] = {}
        if data is not None:
            update["source"] = _moved(self.source, data)
        if training_data is not None:
            if self.training_source is None:
                raise UserError(f"task {self.name}: its training items come with its test items; name one place only")
            update["training_source"] = _moved(self.training_source, training_data)
        return self.model_copy(update=update)


class _Loader(yaml.SafeLoader):
    """Left to itself, yaml takes the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_task(name: str) -> Task:
    """The task of a YAML file: its path, or the name of one that ships. Any mistake raises `UserError`."""
    path = find_file(TASKS, name, "--task")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        return Task.model_validate(values)
    except (yaml.YAMLError, OSError, UnicodeDecodeError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise UserError(f"task {path}: not YAML ({why}); mend the file") from error
    except ValidationError as error:
        raise UserError(f"task {path}: {_first_mistake(error)}") from error


def _moved(source: Source, place: str) -> Source:
    return source.model_copy(update={"folder" if source.folder is not None else "hub": place})


def _has_tag(code: str) -> bool:
    return code in FLORES_200 and code not in NOT_IN_NLLB


def _require_tag(code: str) -> None:
    if _has_tag(code):
        return
    if code in FLORES_200:
        raise ValueError(f"languages: NLLB has no tag for '{code}'; name the tag that stands in as tag_proxies.{code}")
    try:
        known = check_language(code)
    except UserError as error:
        raise ValueError(f"languages: {error}; if NLLB has no tag for it, name one as tag_proxies.{code}") from error
    raise ValueError(f"languages: '{code}' is not a FLORES-200 code; write '{known}'")


def _first_mistake(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{key}'; remove it"
    if first["type"] == "missing":
        return f"missing key '{key}'; add it"
    message = first["msg"].removeprefix("Value error, ")
    if ";" not in message:
        message += "; mend it"
    return f"{key}: {message}" if key else message
