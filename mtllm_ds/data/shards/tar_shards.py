"""Tar shards of blocks: written reproducibly, read block by block, each read checked against its hash."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
import webdataset as wds

from mtllm_ds.data.shards.blocks import Block, BlockError, Ragged, block_hash, decode_block
from mtllm_ds.data.shards.manifest import Manifest, ShardEntry
from mtllm_ds.data.shards.storage import StorageError
from mtllm_ds.errors import UserError

BLOCK_FIELD = "block"
"""Extension of the tar members: plain webdataset yields `{"__key__": ..., "block": bytes}`."""

_TAR_HEADER_BYTES = 512


class _HashingFile:
    """A file for writing that hashes what goes by."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.position = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.position += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.position

    def flush(self) -> None:
        self._file.flush()


class ShardWriter:
    """Writes one shard under a temporary name; `close` gives it its own. The same blocks give the same bytes."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self._temporary = folder / f".{name}.tmp"
        self._file = open(self._temporary, "wb")  # noqa: SIM115 - open until close or abort
        self._stream = _HashingFile(self._file)
        self._tar = wds.TarWriter(self._stream, user="mtllm", group="mtllm", encoder=False, mtime=0)
        self._blocks = self._samples = 0

    @property
    def bytes_written(self) -> int:
        return self._tar.tarstream.offset

    def write(self, key: str, data: bytes, samples: int) -> int:
        """Append a block; returns the offset of its first byte in the shard."""
        offset = self._tar.tarstream.offset + _TAR_HEADER_BYTES
        self._tar.write({"__key__": key, BLOCK_FIELD: data})
        self._blocks += 1
        self._samples += samples
        return offset

    def close(self) -> ShardEntry:
        """Finish the shard and move it to its name."""
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self.path)
        return ShardEntry(
            self.path.name, self._stream.position, self._stream.sha256.hexdigest(), self._blocks, self._samples
        )

    def abort(self) -> None:
        """Drop what was written, also where the disk is too full to finish it."""
        for close in (self._tar.close, self._file.close):
            with suppress(OSError):
                close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)


class DamagedBlockError(UserError):
    """A block is missing, truncated or altered."""

    def __init__(self, manifest: Manifest, block: int, reason: str) -> None:
        self.block = block
        self.fault = f"damaged data in '{manifest.storage.root}': {manifest.describe_block(block)}: {reason}"
        super().__init__(f"{self.fault}; copy or prepare the shard anew, or set data.on_error: skip")


def read_block(manifest: Manifest, block: int) -> Block:
    """Read, check and decode one block.

    Raises:
        DamagedBlockError: the bytes are not those that were written.
    """
    index = manifest.index
    shard = manifest.shards[int(index.shard[block])]
    expected = index.sha256[block].tobytes()
    start, length = int(index.offset[block]), int(index.size_bytes[block])
    try:
        data = manifest.storage.read_range(shard.name, start, length, lambda read: block_hash(read) == expected)
    except StorageError as error:
        raise DamagedBlockError(manifest, block, str(error)) from error
    try:
        columns = decode_block(data)
    except BlockError as error:
        raise DamagedBlockError(manifest, block, str(error)) from error
    for name, lengths in (("encoder_ids", index.encoder_lengths[block]), ("llm_ids", index.llm_lengths[block])):
        column = columns.get(name)
        if not isinstance(column, Ragged) or not np.array_equal(column.lengths, lengths):
            raise DamagedBlockError(manifest, block, f"its column {name} does not fit the index")
    return columns


def verify_shards(manifest: Manifest, advance: Callable[[int], None] = lambda blocks: None) -> None:
    """Read every byte of a data set: shards' names, sizes and hashes, and every block.

    Args:
        advance: called with the number of blocks checked.

    Raises:
        UserError: naming the first fault.
    """
    manifest.check_shards()
    for position, shard in enumerate(manifest.shards):
        blocks = np.flatnonzero(manifest.index.shard == position)
        for block in blocks:
            read_block(manifest, int(block))
            advance(1)
        if hashlib.sha256(manifest.storage.read(shard.name)).hexdigest() != shard.sha256:
            raise UserError(
                f"data set {manifest.storage.root}: the shard '{shard.name}' was altered between its blocks; "
                "copy or prepare it anew"
            )
