"""Are the input files those that a finished data set was made of?"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from mtllm_ds import atomic
from mtllm_ds.data.writing.sources import SourceReader
from mtllm_ds.errors import UserError

INPUTS_NAME = "inputs.json"
"""Lies beside the manifest, and is no part of it: the same text prepared elsewhere is the same data set."""


def note_inputs(output: Path, readers: Sequence[SourceReader]) -> None:
    """Write down size, time and sha256 of each input, which has been read to its end."""
    entries = [
        {
            "path": reader.source.path,
            "bytes": reader.bytes_total,
            "modified_ns": os.stat(reader.source.path).st_mtime_ns,
            "sha256": reader.sha256,
        }
        for reader in readers
    ]
    atomic.write_json(output / INPUTS_NAME, entries)


def check_inputs(output: Path, readers: Sequence[SourceReader]) -> None:
    """Refuse inputs that have changed since; a file whose size and time are the same is not read for it.

    Raises:
        UserError: naming the first that has.
    """
    noted = output / INPUTS_NAME
    if not noted.exists():  # an older data set
        return
    for entry, reader in zip(json.loads(noted.read_text()), readers, strict=True):
        path = reader.source.path
        if (entry["bytes"], entry["modified_ns"]) == (reader.bytes_total, os.stat(path).st_mtime_ns):
            continue
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                raise UserError(
                    f"--output={output}: was made of another '{path}' than the one that is there now; choose another folder"
                )
