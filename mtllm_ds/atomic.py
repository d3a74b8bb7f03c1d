"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_LEFTOVER = re.compile(r"\.(?P<name>.+)\.\d+\.(?P<kind>tmp|old)")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file beside its place, then rename it there: readers see the old one or the new one, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_figures(path: Path, figures: Mapping[str, float]) -> None:
    """Write figures as flat JSON, name to number, atomically; what is not defined (NaN, infinite) is left out."""
    odd = [name for name, value in figures.items() if isinstance(value, bool) or not isinstance(value, int | float)]
    assert not odd, f"{odd[0]} is no number: it belongs into a file beside the figures"
    write_json(path, {name: value for name, value in figures.items() if math.isfinite(value)})


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that takes its name only when the block ends well; an older one of that name is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        _sync_folder(temporary)
        retired = path.with_name(f".{path.name}.{os.getpid()}.old")
        if path.exists():
            os.replace(path, retired)
        os.replace(temporary, path)
        _sync_folder(path.parent)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """Let a power cut not forget a name that was just given; some network file systems have no such call."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Clear a folder, which nobody else may be writing to, of what killed writers left half done in it.

    Of a folder that was being replaced the older one comes back.
    """
    for path in folder.glob(".*"):
        match = _LEFTOVER.fullmatch(path.name)
        if match is None:
            continue
        place = path.with_name(match["name"])
        if match["kind"] == "old" and not place.exists():
            os.replace(path, place)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
