"""Text files line by line, plain or compressed: read to their true end, or refused.

The libraries' own readers take a file that ends inside a compressed frame (zstandard), or whose second stream is damaged (bz2,
lzma), for a shorter one. Here every frame must end, its checksum must hold, and nothing may follow the last but another frame.
"""

import bz2
import codecs
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mtllm_ds.errors import UserError

COMPRESSIONS = (".gz", ".xz", ".zst", ".bz2")
_CHUNK_BYTES = 16 << 10
"""Small, because a chunk is decompressed at once, and may grow a thousandfold."""
_LARGEST_WINDOW_BYTES = 1 << 31
"""What `zstd --long=31` writes; memory is taken as the frame asks for it."""


class BadLineError(UserError):
    """One line (or row) cannot be used; the rest of the file may be."""

    def __init__(self, place: str, reason: str, problem: str) -> None:
        super().__init__(f"{place}: {problem}")
        self.reason = reason
        """One word for what is wrong, to be counted"""


def open_decompressed(raw: IO[bytes], name: str) -> io.BufferedReader:
    """The content of a file, decompressed as the end of its name says; `raw.tell()` says how far it is.

    Raises, when read: EOFError, OSError, `zlib.error`, `lzma.LZMAError` or `zstandard.ZstdError` if it is damaged or ends early.
    """
    suffix = Path(name).suffix
    if suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=raw))
    if suffix == ".xz":
        return io.BufferedReader(_Frames(raw, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ), padding=b"\0"))
    if suffix == ".bz2":
        return io.BufferedReader(_Frames(raw, bz2.BZ2Decompressor))
    if suffix == ".zst":
        import zstandard

        def frame() -> Any:
            return zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW_BYTES).decompressobj()

        return io.BufferedReader(_Frames(raw, frame))
    return io.BufferedReader(raw)  # type: ignore[arg-type]


class _Frames(io.RawIOBase):
    """Compressed frames end to end. Padding between and after them is skipped."""

    def __init__(self, raw: IO[bytes], new_frame: Callable[[], Any], padding: bytes = b"") -> None:
        self._raw = raw
        self._new_frame = new_frame
        self._padding = padding
        self._frame: Any = None
        self._compressed = b""
        self._content = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._content:
            if not self._compressed:
                self._compressed = self._raw.read(_CHUNK_BYTES)
                if not self._compressed and self._frame is not None:
                    raise EOFError("it ends early, inside a compressed stream")
                if not self._compressed:
                    return 0
            if self._frame is None:
                self._compressed = self._compressed.lstrip(self._padding) if self._padding else self._compressed
                if not self._compressed:
                    continue
                self._frame = self._new_frame()
            self._content = memoryview(self._frame.decompress(self._compressed))
            self._compressed = b""
            if self._frame.eof:
                self._compressed, self._frame = self._frame.unused_data, None
        length = min(len(buffer), len(self._content))
        buffer[:length] = self._content[:length]
        self._content = self._content[length:]
        return length


@contextmanager
def damage_told(path: str) -> Iterator[None]:
    """Turns what decompression raises into one line."""
    import zstandard

    damage = (EOFError, OSError, zlib.error, lzma.LZMAError, UnicodeDecodeError, zstandard.ZstdError)
    try:
        yield
    except damage as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: damaged, ends early or is not what its name says ({reason}); copy or make it anew"
        ) from error


def lines_of(path: str, raw: IO[bytes] | None = None) -> Iterator[tuple[str, bytes]]:
    """(place, line) of each line that is not blank, without its end; the place names file and line for messages.

    Args:
        raw: the file, where it is open already

    Raises:
        UserError: the file is missing, damaged or ends early.
    """
    with damage_told(path), raw or open(path, "rb") as file:
        for number, line in enumerate(open_decompressed(file, path), start=1):
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if line.strip():
                yield f"{path}, line {number}", line.rstrip(b"\r\n")


def decoded(place: str, line: bytes) -> str:
    """The text of a line.

    Raises:
        BadLineError: it is not UTF-8.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise BadLineError(place, "not_utf8", f"not UTF-8 ({error.reason}); convert the file, as by iconv") from error


def json_object(place: str, line: bytes) -> dict[str, Any]:
    """The object that a line of JSON holds.

    Raises:
        BadLineError: it is none, is nested too deeply, or holds a number of thousands of digits.
    """
    try:
        row = json.loads(decoded(place, line))
    except json.JSONDecodeError as error:
        raise BadLineError(place, "not_json", f"not JSON ({error.msg}); mend or remove the line") from error
    except BadLineError:
        raise
    except (RecursionError, ValueError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
        raise BadLineError(place, "not_json", f"not JSON that can be read ({what}); mend or remove the line") from error
    if not isinstance(row, dict):
        raise BadLineError(place, "not_json", "not a JSON object; mend or remove the line")
    return row
