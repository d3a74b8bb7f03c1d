"""Can a run write where it is to? Looked at without writing anything."""

from __future__ import annotations

import os
from pathlib import Path

from mtllm_ds.errors import UserError


def check_output_folder(place: str) -> None:
    """Refuse a folder that cannot be made or written to; what it would lie in is looked at, nothing is made.

    Raises:
        UserError: it is a file, lies below one, has a name that no file system takes, or may not be written.
    """
    folder = Path(place).absolute()
    if "\0" in place:
        raise cannot_be_written(place, ValueError("it has a NUL character in its name"))
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:  # a name too long
        raise cannot_be_written(place, error) from error
    if not there.is_dir():
        raise UserError(f"run.output_dir={_shown(place)}: {there} is a file; choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise cannot_be_written(place, PermissionError(f"{there} may not be written"))


def cannot_be_written(place: str | Path, error: Exception) -> UserError:
    """The one line for a run folder that fails, however it does."""
    why = getattr(error, "strerror", None) or str(error)
    return UserError(f"run.output_dir={_shown(str(place))}: cannot be written ({why}); choose another folder")


def _shown(place: str) -> str:
    place = place.replace("\0", "\\0")
    return place if len(place) <= 120 else f"{place[:100]}... ({len(place)} characters)"
