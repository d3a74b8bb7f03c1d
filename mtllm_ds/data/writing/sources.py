"""Raw text in: JSON lines, tab-separated values (either .gz, .xz or .zst) and Parquet, read document by document."""

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mtllm_ds.errors import UserError
from mtllm_ds.languages import check_language

_FORMATS = {
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".parquet": "parquet",
}
_COMPRESSIONS = {".gz", ".xz", ".zst", ".bz2"}


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One file of raw text and where in it the text stands.

    A field is a key of a JSON line, a column of a Parquet file, or of tab-separated values the name in the header line or, for
    files without header, the column's number from 1 (as with `cut -f`).
    """

    path: str
    language: str | None = None
    """FLORES-200 code of all its documents."""
    language_field: str | None = None
    """Or the field that holds each document's code."""
    text_field: str = "text"
    second_text_field: str | None = None
    """For pairs: the second segment."""
    llm_text_field: str | None = None
    """What the LLM reads, where that is another text than the encoder's: the English original of a translation."""
    label_field: str | None = None
    """Integer label, stored in the column `labels`."""
    compared_field: str | None = None
    """Field compared with the exclusion list, where that is not the text itself (such as the English side of a translation)."""

    def __post_init__(self) -> None:
        if (self.language is None) == (self.language_field is None):
            raise UserError(f"the language of '{self.path}' is not clear, give either a language or a language field")
        if self.language is not None:
            check_language(self.language)
        if self.llm_text_field is not None and self.second_text_field is not None:
            raise UserError(f"'{self.path}': pairs have no other text for the LLM, leave out one of the two fields")
        if self.llm_text_field == self.text_field:
            raise UserError(
                f"'{self.path}': the LLM reads the field '{self.text_field}' anyway, leave out its own field"
            )

    @property
    def fields(self) -> list[str]:
        """All fields that are read."""
        optional = (
            self.second_text_field,
            self.llm_text_field,
            self.language_field,
            self.label_field,
            self.compared_field,
        )
        return [self.text_field, *(field for field in optional if field is not None)]


@dataclass(frozen=True)
class Document:
    """One document: its segments (one, or two of a pair), stripped of surrounding blanks."""

    segments: tuple[str, ...]
    language: str
    label: int | None = None
    compared: str | None = None
    """What the exclusion list is compared with, where that is not the segments"""
    llm_text: str | None = None
    """What the LLM reads, where that is not the segments"""


class SourceReader:
    """Documents of one file, in order. `bytes_read` of `bytes_total` (both on disk) tells how far it is."""

    def __init__(self, source: InputFile) -> None:
        self.source = source
        path = Path(source.path)
        if not path.is_file():
            raise UserError(f"no input file at '{path}', give the path of an existing file")
        self.bytes_total = path.stat().st_size
        if not self.bytes_total:
            raise UserError(f"the input file '{path}' is empty, leave it out")
        suffixes = [suffix for suffix in path.suffixes[-2:] if suffix not in _COMPRESSIONS]
        if not suffixes or suffixes[-1] not in _FORMATS:
            raise UserError(f"cannot tell the format of '{path}' by its name, use one of {', '.join(_FORMATS)}")
        self.format = _FORMATS[suffixes[-1]]
        self._raw: IO[bytes] | None = None
        self._bytes_done = 0

    @property
    def bytes_read(self) -> int:
        """Bytes of the file read so far."""
        return self._raw.tell() if self._raw and not self._raw.closed else self._bytes_done

    def __iter__(self) -> Iterator[Document]:
        with open(self.source.path, "rb") as self._raw:
            rows = {"jsonl": self._json_rows, "tsv": self._tsv_rows, "parquet": self._parquet_rows}[self.format]()
            try:
                for place, row in rows:
                    yield self._document(place, row)
            except (EOFError, OSError, lzma.LZMAError, UnicodeDecodeError, _zstd_error()) as error:
                raise UserError(f"'{self.source.path}' is damaged or not what its name says ({error})") from error
        self._bytes_done = self.bytes_total

    def _document(self, place: str, row: dict[str, Any]) -> Document:
        source = self.source
        optional = [name for name in (source.second_text_field, source.llm_text_field) if name is not None]
        texts = {name: row[name] for name in (source.text_field, *optional)}
        for name, text in texts.items():
            if not isinstance(text, str):
                raise UserError(
                    f"{place}: the text in '{name}' is not a string but {type(text).__name__}, choose another field"
                )
        language = source.language if source.language_field is None else row[source.language_field]
        try:
            code = check_language(str(language))
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        label = None
        if source.label_field is not None:
            try:
                label = int(row[source.label_field])
            except (TypeError, ValueError) as error:
                raise UserError(f"{place}: the label {row[source.label_field]!r} is not an integer") from error
        compared = None if source.compared_field is None else str(row[source.compared_field])
        segments = tuple(text.strip() for text in texts.values())
        if source.llm_text_field is None:
            return Document(segments, code, label, compared)
        text, llm_text = segments
        return Document((text,), code, label, compared, None if llm_text == text else llm_text)

    def _lines(self) -> Iterator[tuple[str, str]]:
        stream = io.BufferedReader(_decompress(self._raw, Path(self.source.path).suffix))
        for number, raw in enumerate(stream, start=1):
            place = f"{self.source.path}, line {number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{place}: not UTF-8 ({error.reason}), convert the file, as by iconv") from error
            if line.strip():
                yield place, line.rstrip("\r\n")

    def _json_rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for place, line in self._lines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{place}: not JSON ({error.msg}), mend or remove the line") from error
            if not isinstance(row, dict):
                raise UserError(f"{place}: not a JSON object, mend or remove the line")
            self._require(place, row)
            yield place, row

    def _tsv_rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        fields = self.source.fields
        names: list[str] | None = None
        by_number = all(field.isdigit() for field in fields)
        for place, line in self._lines():
            cells = line.split("\t")
            if by_number:
                row = {str(i): cell for i, cell in enumerate(cells, start=1)}
            elif names is None:
                names = cells
                self._require(
                    place, dict.fromkeys(names), "; where this line is no header, give columns by number from 1"
                )
                continue
            else:
                row = dict(zip(names, cells, strict=False))
            self._require(place, row)
            yield place, row

    def _parquet_rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        import pyarrow
        from pyarrow import parquet

        try:
            table = parquet.ParquetFile(self._raw)
        except pyarrow.ArrowInvalid as error:
            raise UserError(f"'{self.source.path}' is not a Parquet file ({str(error).splitlines()[0]})") from error
        self._require(self.source.path, dict.fromkeys(table.schema_arrow.names))
        number = 0
        for batch in table.iter_batches(batch_size=1024, columns=list(dict.fromkeys(self.source.fields))):
            for row in batch.to_pylist():
                number += 1
                yield f"{self.source.path}, row {number}", row

    def _require(self, place: str, row: dict[str, Any], hint: str = "") -> None:
        for field in self.source.fields:
            if field not in row:
                there = ", ".join(repr(name if len(name) < 40 else f"{name[:36]}...") for name in row)
                raise UserError(f"{place}: no field '{field}', there are {there}{hint}")


def _decompress(raw: IO[bytes] | None, suffix: str) -> Any:
    assert raw is not None
    if suffix == ".gz":
        return gzip.open(raw)
    if suffix == ".xz":
        return lzma.open(raw)
    if suffix == ".bz2":
        return bz2.open(raw)
    if suffix == ".zst":
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
    return raw


def _zstd_error() -> type[Exception]:
    import zstandard

    return zstandard.ZstdError
