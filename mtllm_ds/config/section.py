"""What every section of the settings is: typed, frozen, without unknown keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

FIXED: dict[str, Any] = {"fixed_on_resume": True}
"""`Field(json_schema_extra=FIXED)`: changing this setting would continue another run; all others may change on resume."""

FREE: dict[str, Any] = {"fixed_on_resume": False}
"""Within a section that is fixed as a whole: may change all the same, as do a place, or what is speed and memory only."""


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True,
        allow_inf_nan=False, str_min_length=1,
    )  # fmt: skip

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Left to itself, pydantic takes `true` for 1."""
        kinds = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and bool not in (kinds, *get_args(kinds)):
            raise ValueError("expected another value than true or false")
        return value


def unread(section: Section, name: str, fields: Iterable[str], why: str) -> Iterator[str]:
    """One line for each of a section's fields that nothing reads and that is not at its default."""
    for field in fields:
        value = getattr(section, field)
        if value != type(section).model_fields[field].default:
            shown = str(value).lower() if isinstance(value, bool) else value
            yield f"{name}.{field}={shown}: has no effect {why}; remove it"


def fixed_fields(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of the settings below a section that may not change on resume."""
    for name, field in section.model_fields.items():
        below = section_of(field.annotation)
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("fixed_on_resume"):
            yield prefix + name
        elif below is not None:
            yield from fixed_fields(below, f"{prefix}{name}.")


def difference(before: Any, after: Any, key: str) -> tuple[str, Any, Any] | None:
    """The first setting below `key` that may not change on resume and has: its dotted name, its value before and after."""
    if isinstance(before, Section) and isinstance(after, Section):
        pairs = {
            name: (getattr(before, name, None), getattr(after, name))
            for name, field in type(after).model_fields.items()
            if field.json_schema_extra != FREE
        }
    elif isinstance(before, dict) and isinstance(after, dict):
        pairs = {name: (before.get(name), after.get(name)) for name in {**before, **after}}
    else:
        return None if before == after else (key, before, after)
    below = (difference(*pair, f"{key}.{name}") for name, pair in pairs.items())
    return next((found for found in below if found is not None), None)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, an optional one included; None for a plain value."""
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None
