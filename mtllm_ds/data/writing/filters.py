"""Documents that must not enter a data set: exact repetitions, and text that an exclusion list forbids (test sets)."""

import hashlib
import re
from pathlib import Path

from mtllm_ds.data.writing.seen import SeenTexts
from mtllm_ds.data.writing.sources import Document
from mtllm_ds.errors import UserError
from mtllm_ds.text_files import decoded, lines_of

_HASH_DIGITS = 24


def normalized_hash(text: str) -> str:
    """First 24 hex digits of the sha256 of a text, lower-cased, runs of non-word characters folded to one blank, stripped."""
    folded = re.sub(r"\W+", " ", text.lower()).strip()
    return hashlib.sha256(folded.encode()).hexdigest()[:_HASH_DIGITS]


def read_exclusions(path: str) -> frozenset[bytes]:
    """The hashes of a list (one `normalized_hash` per line, plain or compressed).

    Raises:
        UserError: no such file, or a line that is no hash.
    """
    if not Path(path).is_file():
        raise UserError(f"--exclude={path}: no such file; give a list of hashes")
    hashes = set()
    for place, line in lines_of(path):
        digits = decoded(place, line).strip()
        if not re.fullmatch(rf"[0-9a-f]{{{_HASH_DIGITS}}}", digits):
            raise UserError(f"{place}: not {_HASH_DIGITS} hex digits; mend the exclusion list")
        hashes.add(bytes.fromhex(digits))
    return frozenset(hashes)


class DocumentFilter:
    """Tells why a document is left out. Deduplication remembers every document of the whole input (`seen.py`)."""

    def __init__(self, deduplicate: bool, exclusions: frozenset[bytes]) -> None:
        self._seen = SeenTexts() if deduplicate else None
        self._exclusions = exclusions

    def reason(self, document: Document) -> str | None:
        """`excluded`, `duplicate` (same language and texts as an earlier one), `empty`, or None to keep it."""
        texts = document.segments if document.llm_text is None else (*document.segments, document.llm_text)
        if not all(texts):
            return "empty"
        if self._exclusions:
            compared = texts if document.compared is None else (document.compared,)
            if any(bytes.fromhex(normalized_hash(text)) in self._exclusions for text in compared):
                return "excluded"
        if self._seen is not None:
            key = "\0".join((document.language, *texts)).encode()
            if not self._seen.add(key):
                return "duplicate"
        return None
