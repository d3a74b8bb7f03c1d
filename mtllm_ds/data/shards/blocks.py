"""The block codec: some hundreds of samples of one language as columns in a few kilobytes of plain bytes.

    bytes     content
    4         b"MTLB"
    2         version, little-endian
    2         length h of the header
    h         header, JSON: {"rows": n, "columns": [{"name", "kind", "dtype"[, "shape"][, "lengths"][, "bytes"]}, ...]}
    ...       the columns in that order, little-endian, without padding

A *ragged* column is its lengths (n) followed by its values (total, *shape) end to end; a *dense* column is an array (n, *shape).
`bytes` is there where the column is deflated. Integers are stored in the narrowest type that holds them: ids take two bytes where
the vocabulary fits 65,536, else four. New columns (labels, spans, teacher targets) need no new version. Nothing is ever unpickled.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

MAGIC = b"MTLB"
VERSION = 1
_PREFIX = struct.Struct("<4sHH")
_DTYPES = frozenset({"<u1", "<u2", "<u4", "<u8", "<i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"})


class BlockError(ValueError):
    """These bytes are not a whole block."""


@dataclass(frozen=True)
class Ragged:
    """Rows of unequal length: `values[offsets[i] : offsets[i + 1]]` is row i."""

    values: np.ndarray
    """(total, ...)"""
    offsets: np.ndarray
    """(rows + 1,) int64"""

    @classmethod
    def from_rows(cls, rows: Sequence[Any], dtype: Any) -> "Ragged":
        """Lay rows (sequences of numbers, or arrays that differ in their first dimension) end to end."""
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        values = np.empty((offsets[-1], *np.shape(rows[0])[1:]) if rows else 0, dtype)
        for row, start, end in zip(rows, offsets[:-1], offsets[1:], strict=True):
            values[start:end] = row
        return cls(values, offsets)

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) int64"""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]


Column = Ragged | np.ndarray
Block = dict[str, Column]
"""Columns by name, all with the same number of rows."""


def ids_dtype(vocab_size: int) -> np.dtype:
    """Narrowest type of ids below `vocab_size`."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def narrowest_unsigned(values: np.ndarray) -> np.ndarray:
    """The same non-negative integers in the narrowest unsigned type."""
    largest = int(values.max(initial=0))
    return values.astype(next(f"<u{size}" for size in (1, 2, 4, 8) if largest < 1 << 8 * size))


def encode_block(columns: Mapping[str, Column], *, deflate: bool = False) -> bytes:
    """Bytes of a block. `deflate` compresses each column: for indexes, which are read once, not for training text."""
    rows = {len(column) for column in columns.values()}
    assert len(rows) == 1, f"columns of unequal length: {rows}"
    described, bodies = [], []
    for name, column in columns.items():
        description, body = _encode_column(name, column)
        if deflate:
            body = zlib.compress(body, 6)
            description["bytes"] = len(body)
        described.append(description)
        bodies.append(body)
    header = json.dumps({"rows": rows.pop(), "columns": described}, separators=(",", ":")).encode()
    return b"".join([_PREFIX.pack(MAGIC, VERSION, len(header)), header, *bodies])


def _encode_column(name: str, column: Column) -> tuple[dict[str, Any], bytes]:
    values = column.values if isinstance(column, Ragged) else column
    dtype = values.dtype.newbyteorder("<").str.replace("|", "<")
    assert dtype in _DTYPES, f"column {name}: {dtype} cannot be stored"
    body = values.astype(dtype, copy=False).tobytes()
    described: dict[str, Any] = {"name": name, "kind": "dense", "dtype": dtype}
    if values.ndim > 1:
        described["shape"] = list(values.shape[1:])
    if isinstance(column, Ragged):
        lengths = narrowest_unsigned(column.lengths)
        described |= {"kind": "ragged", "lengths": lengths.dtype.str.replace("|", "<")}
        return described, lengths.tobytes() + body
    return described, body


def decode_block(data: bytes | memoryview) -> Block:
    """Columns of a block; arrays are views of `data`.

    Raises:
        BlockError: the bytes are not exactly one block of a version this code reads.
    """
    try:
        return _decode(memoryview(data))
    except (KeyError, TypeError, ValueError, struct.error, zlib.error) as error:
        raise BlockError(f"not a block: {error}") from error


def _decode(data: memoryview) -> Block:
    magic, version, header_length = _PREFIX.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise BlockError(f"not a block of version {VERSION}")
    position = _PREFIX.size + header_length
    header = json.loads(bytes(data[_PREFIX.size : position]))
    columns: Block = {}
    for described in header["columns"]:
        column, position = _decode_column(described, header["rows"], data, position)
        columns[described["name"]] = column
    if position != len(data):
        raise BlockError(f"{len(data) - position} bytes too many")
    return columns


def _decode_column(described: dict[str, Any], rows: int, data: memoryview, position: int) -> tuple[Column, int]:
    if described["dtype"] not in _DTYPES:
        raise BlockError(f"dtype {described['dtype']}")
    dtype = np.dtype(described["dtype"])
    end = None
    if "bytes" in described:
        end = position + described["bytes"]
        data, position = memoryview(zlib.decompress(data[position:end])), 0
    offsets = None
    if described["kind"] == "ragged":
        if described["lengths"] not in _DTYPES:
            raise BlockError(f"dtype {described['lengths']}")
        lengths = np.frombuffer(data, described["lengths"], rows, position)
        position += lengths.nbytes
        offsets = np.zeros(rows + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
    shape = (rows if offsets is None else int(offsets[-1]), *described.get("shape", ()))
    values = np.frombuffer(data, dtype, prod(shape), position).reshape(shape)
    position += values.nbytes
    return values if offsets is None else Ragged(values, offsets), position if end is None else end


def block_hash(data: bytes | memoryview) -> bytes:
    """sha256 (32 bytes) of a block's bytes."""
    return hashlib.sha256(data).digest()


def num_rows(block: Block) -> int:
    return len(next(iter(block.values())))


def row_lengths(column: Column) -> np.ndarray:
    """(rows,) int64 lengths of a ragged column."""
    assert isinstance(column, Ragged)
    return column.lengths


def slice_rows(block: Block, start: int, end: int) -> Block:
    """Rows start to end of every column."""
    return {name: _slice(column, start, end) for name, column in block.items()}


def _slice(column: Column, start: int, end: int) -> Column:
    if isinstance(column, Ragged):
        offsets = column.offsets[start : end + 1]
        return Ragged(column.values[offsets[0] : offsets[-1]], offsets - offsets[0])
    return column[start:end]


def concatenate_blocks(blocks: Sequence[Block]) -> Block:
    """All rows of blocks with the same columns, in order."""
    return {name: _concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _concatenate(columns: Sequence[Any]) -> Column:
    if isinstance(columns[0], Ragged):
        offsets = np.zeros(1 + sum(len(column) for column in columns), np.int64)
        np.cumsum(np.concatenate([column.lengths for column in columns]), out=offsets[1:])
        return Ragged(np.concatenate([column.values for column in columns]), offsets)
    return np.concatenate(columns)
