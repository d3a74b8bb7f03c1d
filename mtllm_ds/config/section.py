"""What every section of the settings is: typed, frozen, without unknown keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


def unread(section: Section, name: str, fields: Iterable[str], why: str) -> Iterator[str]:
    """One line for each of a section's fields that nothing reads and that is not at its default."""
    for field in fields:
        value = getattr(section, field)
        if value != type(section).model_fields[field].default:
            shown = str(value).lower() if isinstance(value, bool) else value
            yield f"{name}.{field}={shown} has no effect {why}: remove it"
