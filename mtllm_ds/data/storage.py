"""Where the files of a data set are read from: every read goes through `Storage`, by name inside one root."""

import os
from pathlib import Path

from mtllm_ds.errors import UserError


class StorageError(OSError):
    """A read failed: the file is missing, too short, or out of reach."""


def check_member_name(name: str) -> str:
    """Refuse names that could lead out of the data set's folder."""
    if not name or name.startswith(("/", "\\", "~")) or ".." in name.replace("\\", "/").split("/") or ":" in name:
        raise UserError(f"the file name '{name}' leads out of the data set's folder; the manifest is not to be trusted")
    return name


class Storage:
    """Reads of files below a local root."""

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)

    def read(self, name: str) -> bytes:
        """A whole file."""
        try:
            return (Path(self.root) / check_member_name(name)).read_bytes()
        except OSError as error:
            raise StorageError(f"cannot read '{name}' in '{self.root}': {error.strerror}") from error

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; a shorter answer raises."""
        try:
            with open(Path(self.root) / check_member_name(name), "rb", buffering=0) as file:
                data = os.pread(file.fileno(), length, offset)
        except OSError as error:
            raise StorageError(f"cannot read '{name}' in '{self.root}': {error.strerror}") from error
        if len(data) != length:
            raise StorageError(
                f"'{name}' in '{self.root}' ends at byte {offset + len(data)}, before byte {offset + length}"
            )
        return data

    def size(self, name: str) -> int:
        """Bytes of a file."""
        try:
            return (Path(self.root) / check_member_name(name)).stat().st_size
        except OSError as error:
            raise StorageError(f"cannot read '{name}' in '{self.root}': {error.strerror}") from error
