"""Raw text in: JSON lines, tab-separated values (either .gz, .xz, .bz2 or .zst) and Parquet, read document by document."""

import hashlib
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mtllm_ds.errors import UserError
from mtllm_ds.languages import check_language
from mtllm_ds.text_files import COMPRESSIONS, BadLineError, decoded, json_object, lines_of

OnError = Literal["fail", "skip"]

_FORMATS = {
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".parquet": "parquet",
}


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
    """The label of each document, one of `labels`."""
    labels: tuple[str, ...] = ()
    """What the labels are called, in the order in which they are numbered."""
    compared_field: str | None = None
    """Field compared with the exclusion list, where that is not the text itself (such as the English side of a translation)."""

    def __post_init__(self) -> None:
        if (self.language is None) == (self.language_field is None):
            raise UserError(
                f"--input={self.path}: its language is not clear; give either a language or a language field"
            )
        if self.language is not None:
            check_language(self.language)
        if self.llm_text_field is not None and self.second_text_field is not None:
            raise UserError(
                f"--input={self.path}: pairs have no other text for the LLM; leave out one of the two fields"
            )
        if (self.label_field is None) != (not self.labels):
            raise UserError(
                f"--input={self.path}: --label-field and --labels belong together; "
                "give the field and all the labels that it may hold"
            )
        if len(set(self.labels)) < len(self.labels):
            raise UserError(f"--labels {' '.join(self.labels)}: a label stands twice; name each once")
        if self.llm_text_field == self.text_field:
            raise UserError(
                f"--input={self.path}: the LLM reads the field '{self.text_field}' anyway; leave out its own field"
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
    """Position among the file's labels"""
    compared: str | None = None
    """What the exclusion list is compared with, where that is not the segments"""
    llm_text: str | None = None
    """What the LLM reads, where that is not the segments"""
    place: str = field(default="", compare=False)
    """File and line, for messages"""


class SourceReader:
    """Documents of one file, in order. `bytes_read` of `bytes_total` (both on disk) tells how far it is.

    Args:
        on_error: `skip` leaves out rows that cannot be used, and counts them in `skipped` by reason; a damaged file always fails
    """

    def __init__(self, source: InputFile, on_error: OnError = "fail") -> None:
        self.source = source
        self.skipped: Counter[str] = Counter()
        self.sha256 = ""
        """Of the file's bytes, once all documents were read"""
        self._on_error = on_error
        path = Path(source.path)
        if not path.is_file():
            raise UserError(f"--input={path}: no input file there; give the path of an existing file")
        self.bytes_total = path.stat().st_size
        if not self.bytes_total:
            raise UserError(f"input file {path}: is empty; leave it out")
        suffixes = [suffix for suffix in path.suffixes[-2:] if suffix not in COMPRESSIONS]
        if not suffixes or suffixes[-1] not in _FORMATS:
            raise UserError(f"input file {path}: cannot tell the format by its name; use one of {', '.join(_FORMATS)}")
        self.format = _FORMATS[suffixes[-1]]
        self._raw: _HashedFile | None = None
        self._share_read = 0.0

    @property
    def bytes_read(self) -> int:
        """Bytes of the file read so far."""
        if self._raw is None or self._raw.closed:
            return 0 if self._raw is None else self.bytes_total
        return int(self._share_read * self.bytes_total) if self.format == "parquet" else self._raw.tell()

    def __iter__(self) -> Iterator[Document]:
        self.skipped.clear()
        rows = {"jsonl": self._json_rows, "tsv": self._tsv_rows, "parquet": self._parquet_rows}[self.format]
        with _HashedFile(self.source.path) as self._raw:
            for place, row in rows():
                try:
                    if isinstance(row, BadLineError):
                        raise row
                    yield self._document(place, row)
                except BadLineError as error:
                    self.skip(error)
            self.sha256 = self._raw.sha256.hexdigest()
        if self.format == "parquet":  # which is not read from front to back
            with open(self.source.path, "rb") as file:
                self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()

    def skip(self, error: BadLineError) -> None:
        """Count a row that cannot be used, or raise what is wrong with it."""
        if self._on_error == "fail":
            raise error
        self.skipped[error.reason] += 1

    def check(self) -> None:
        """Read as far as the first document: mistakes in fields, format and names show before any work.

        Raises:
            UserError: the file holds no document, or not what its name or the fields say.
        """
        if next(iter(self), None) is None and not self.skipped:
            raise UserError(f"input file {self.source.path}: holds no document; leave it out")

    def _columns(self) -> list[str] | None:
        """Columns of a Parquet file that are read; None for all."""
        return list(dict.fromkeys(self.source.fields))

    def _document(self, place: str, row: dict[str, Any]) -> Document:
        source = self.source
        self._require(place, row)
        optional = [name for name in (source.second_text_field, source.llm_text_field) if name is not None]
        texts = [text_of(place, name, row[name]) for name in (source.text_field, *optional)]
        language = source.language if source.language_field is None else row[source.language_field]
        try:
            code = check_language(str(language))
        except UserError as error:
            raise BadLineError(place, "unknown_language", str(error)) from error
        label = None if source.label_field is None else self._label(place, row[source.label_field])
        compared = None if source.compared_field is None else _compared(place, source.compared_field, row)
        if source.llm_text_field is None:
            return Document(tuple(texts), code, label, compared, place=place)
        text, llm_text = texts
        return Document((text,), code, label, compared, None if llm_text == text else llm_text, place)

    def _label(self, place: str, value: Any) -> int:
        """Position of a label among `labels`; a whole number stands for its digits, nothing else is made into a label."""
        name = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
        if name not in self.source.labels:
            known = _shown(", ".join(self.source.labels), 80)
            shown = _shown(repr(value))
            raise BadLineError(
                place, "bad_label", f"the label {shown} is none of --labels {known}; mend the line or add it"
            )
        return self.source.labels.index(name)

    def _json_rows(self) -> Iterator[tuple[str, dict[str, Any] | BadLineError]]:
        for place, line in lines_of(self.source.path, self._raw):
            try:
                yield place, json_object(place, line)
            except BadLineError as error:
                yield place, error

    def _tsv_rows(self) -> Iterator[tuple[str, dict[str, Any] | BadLineError]]:
        names: list[str] | None = None
        by_number = all(field.isdigit() for field in self.source.fields)
        for place, line in lines_of(self.source.path, self._raw):
            try:
                cells = decoded(place, line).split("\t")
            except BadLineError as error:
                yield place, error
                continue
            if by_number:
                yield place, {str(i): cell for i, cell in enumerate(cells, start=1)}
            elif names is None:
                names = cells
                header: dict[str, Any] = dict.fromkeys(names)
                self._require(place, header, "; where this line is no header, give columns by number from 1", UserError)
            else:
                yield place, dict(zip(names, cells, strict=False))

    def _parquet_rows(self) -> Iterator[tuple[str, dict[str, Any] | BadLineError]]:
        import pyarrow
        from pyarrow import parquet

        path = self.source.path
        try:
            table = parquet.ParquetFile(path, page_checksum_verification=True)
            self._require(path, dict.fromkeys(table.schema_arrow.names), error_class=UserError)
            number = 0
            for batch in table.iter_batches(batch_size=1024, columns=self._columns()):
                for row in batch.to_pylist():
                    number += 1
                    self._share_read = number / table.metadata.num_rows
                    yield f"{path}, row {number}", row
            if number != table.metadata.num_rows:
                raise OSError(f"{number} rows instead of {table.metadata.num_rows}")
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}: damaged or not a Parquet file ({str(error).splitlines()[0]}); copy or make it anew"
            ) from error

    def _require(
        self, place: str, row: dict[str, Any], hint: str = "", error_class: type[UserError] = BadLineError
    ) -> None:
        for name in self.source.fields:
            if name not in row:
                there = _shown(", ".join(repr(_shown(known)) for known in row), 200)
                problem = f"no field '{name}'; there are {there}{hint}"
                if error_class is BadLineError:
                    raise BadLineError(place, "no_field", problem)
                raise UserError(f"{place}: {problem}")


class _HashedFile(io.FileIO):
    """A file for reading from front to back that hashes what goes by."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "rb")
        self.sha256 = hashlib.sha256()

    def readinto(self, buffer: Any) -> int:
        length = super().readinto(buffer)
        self.sha256.update(memoryview(buffer)[:length])
        return length

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.sha256.update(data)
        return data


def text_of(place: str, name: str, text: Any, *, strip: bool = True) -> str:
    """A field's text; only what can be written as UTF-8 and holds no NUL is text."""
    if not isinstance(text, str):
        raise BadLineError(
            place, "no_text", f"the text in '{name}' is not a string but {type(text).__name__}; choose another field"
        )
    if "\0" in text:
        raise BadLineError(place, "no_text", f"the text in '{name}' holds a NUL character; mend or remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadLineError(
            place, "no_text", f"the text in '{name}' holds half a character (a lone surrogate); mend or remove it"
        ) from error
    return text.strip() if strip else text


def _compared(place: str, name: str, row: dict[str, Any]) -> str:
    value = row[name]
    return text_of(place, name, str(value) if isinstance(value, int | float) else value)


def _shown(text: str, most: int = 40) -> str:
    """Text of the input in a message: one short line."""
    return text if len(text) <= most else f"{text[: most - 3]}..."
