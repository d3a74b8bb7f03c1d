"""Documents gathered by language into chunks of a fixed size: the portions in which raw text is tokenized and accounted for."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mtllm_ds.data.writing.filters import DocumentFilter
from mtllm_ds.data.writing.sources import Document, SourceReader
from mtllm_ds.errors import UserError
from mtllm_ds.text_files import BadLineError

CHUNK_DOCUMENTS = 256
UNKNOWN_LANGUAGE = "unknown"
"""What rows that were skipped are counted under, where their language was in the row"""


@dataclass(frozen=True)
class Chunk:
    """Documents of one language."""

    language: str
    documents: list[Document]
    left_out: Counter[str]
    """Documents of this language that were left out since its last chunk, by reason."""
    bytes_read: int
    digest: str
    """Of the documents of this chunk and all before it: tells whether the input is still the same"""


def chunks_of(
    readers: Sequence[SourceReader], document_filter: DocumentFilter, check_tag: Callable[[str], object]
) -> Iterator[Chunk]:
    """All chunks, in an order that depends on the input alone.

    Args:
        check_tag: raises `UserError` for a language that a tokenizer cannot read

    Raises:
        UserError: a file holds no document; or what the readers and `check_tag` raise, naming file and line.
    """
    waiting: dict[str, list[Document]] = {}
    left_out: dict[str, Counter[str]] = {}
    readable: set[str] = set()
    digest = hashlib.blake2b(digest_size=16)
    bytes_before = 0

    def chunk(language: str, bytes_read: int) -> Chunk:
        documents = waiting.pop(language, [])
        for document in documents:
            digest.update(repr((document.segments, document.llm_text, document.label, language)).encode())
        return Chunk(language, documents, left_out.pop(language, Counter()), bytes_read, digest.hexdigest())

    def note_skipped(reader: SourceReader) -> None:
        if reader.skipped:
            left_out.setdefault(reader.source.language or UNKNOWN_LANGUAGE, Counter()).update(reader.skipped)
            reader.skipped.clear()

    for reader in readers:
        is_empty = True
        for document in reader:
            is_empty = False
            language = document.language
            if language not in readable:
                try:
                    check_tag(language)
                except UserError as error:
                    reader.skip(BadLineError(document.place, "no_tag", str(error)))
                    continue
                readable.add(language)
            documents = waiting.setdefault(language, [])
            if reason := document_filter.reason(document):
                left_out.setdefault(language, Counter())[reason] += 1
                continue
            documents.append(document)
            if len(documents) == CHUNK_DOCUMENTS:
                note_skipped(reader)
                yield chunk(language, bytes_before + reader.bytes_read)
        if is_empty and not reader.skipped:
            raise UserError(f"input file {reader.source.path}: holds no document; leave it out")
        note_skipped(reader)
        bytes_before += reader.bytes_total
    for language in sorted({*waiting, *left_out}):
        yield chunk(language, bytes_before)
