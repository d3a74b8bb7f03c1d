"""The index of a large data set, once per machine: decoded into a cache folder, and mapped into memory by every rank and reader.

A billion samples have 4 GB of lengths. Mapped read-only, all processes of a machine share them.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mtllm_ds import atomic
from mtllm_ds.data.shards.blocks import Block, Ragged
from mtllm_ds.data.shards.storage import StorageError, check_member_name
from mtllm_ds.file_lock import HeldError, lock_file

MAPPED_FROM_BYTES = 4 << 20
"""Indexes below this (as they lie in the data set, deflated) are kept in each process."""
_WAIT_SECONDS = 0.2


def map_index(read: Callable[[], Block], entry: dict[str, Any], cache: Path) -> Block:
    """Columns of an index, mapped from `cache` if it is large, in memory otherwise (or where the cache cannot be written).

    Args:
        read: reads the index, checked, and decodes it; not called where the map is there already
        entry: its `bytes` and `sha256`
    """
    if entry["bytes"] < MAPPED_FROM_BYTES:
        return read()
    folder = cache / "indexes" / check_member_name(entry["sha256"])
    try:
        if not folder.is_dir():
            _write_once(folder, read)
        return _mapped(folder)
    except StorageError:
        raise
    except OSError:
        return read()


def _write_once(folder: Path, read: Callable[[], Block]) -> None:
    """One process of this machine writes the map, the others wait for it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    while not folder.is_dir():
        try:
            lock = lock_file(folder.with_suffix(".lock"))
        except HeldError:
            time.sleep(_WAIT_SECONDS)
            continue
        with lock:
            if not folder.is_dir():
                with atomic.new_folder(folder) as new:
                    _save(read(), new)


def _save(columns: Block, folder: Path) -> None:
    for name, column in columns.items():
        if isinstance(column, Ragged):
            np.save(folder / f"{name}.values.npy", column.values)
            np.save(folder / f"{name}.offsets.npy", column.offsets)
        else:
            np.save(folder / f"{name}.npy", column)


def _mapped(folder: Path) -> Block:
    arrays = {path.name.removesuffix(".npy"): np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
    columns: Block = {name: array for name, array in arrays.items() if "." not in name}
    for name in (name.removesuffix(".values") for name in arrays if name.endswith(".values")):
        columns[name] = Ragged(arrays[f"{name}.values"], arrays[f"{name}.offsets"])
    return columns
