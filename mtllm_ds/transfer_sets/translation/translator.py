"""Translation of whole texts: sentence by sentence, batched by length, cached on disk, over ranks, whoever translates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch

from mtllm_ds.cluster.agree import each_together, own_rank, together, world_size
from mtllm_ds.data.text.padding import longest_first
from mtllm_ds.errors import UserError
from mtllm_ds.languages import check_language
from mtllm_ds.transfer_sets.text_cache import TextCache
from mtllm_ds.transfer_sets.translation.kept import Piece, Sentence, masked_pieces, plain_pieces
from mtllm_ds.transfer_sets.translation.sentences import cut_in_two

WITHOUT_SPACES = ("Jpan", "Hans", "Hant", "Thai", "Laoo", "Tibt")
"""Scripts that put no space between sentences."""

Progress = Callable[[int, int], None]
"""(sentences that are done, all that this rank has to do)"""


class Engine(Protocol):
    """Translates batches of sentences, each as if it were alone."""

    batch_size: int

    def key(self, source: str, target: str) -> dict[str, Any]:
        """Everything besides a sentence that decides its translation, as plain JSON values.

        Raises:
            UserError: it cannot translate from the one language into the other.
        """

    def length(self, sentence: str, source: str) -> int:
        """What sentences are sorted by into batches."""

    def fits(self, sentence: str, source: str) -> bool:
        """False for a sentence that must be cut."""

    def translate(self, sentences: Sequence[str], source: str, target: str) -> list[str]:
        """At most `batch_size` sentences, none blank, without line breaks -> as many translations, in order."""


class Translator:
    """An engine with its cache; `translate` is all there is to call.

    Args:
        cache: folder of the cache; None forgets everything after each call
        keep_code: code, links, mark-up and the beginnings of list items and headings stay as they are
        device: on which ranks agree
    """

    def __init__(
        self,
        engine: Engine,
        cache: Path | None = None,
        *,
        keep_code: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self._engine = engine
        self._cache = cache
        self._device = torch.device(device)
        self._pieces_of = masked_pieces if keep_code else plain_pieces

    def key(self, source: str, target: str) -> dict[str, Any]:
        """Everything besides the text that decides a translation; raises `UserError` if the engine cannot do this pair."""
        return {**self._engine.key(source, target), "keep_code": self._pieces_of is masked_pieces}

    def translate(
        self, texts: Sequence[str], source: str, target: str, *, progress: Progress = lambda done, total: None
    ) -> list[str]:
        """Translations of whole texts, in order; a blank text stays as it is.

        With several ranks (which all call this with the same texts) each translates its share and reads the others' from the
        cache. Raises `UserError` if the engine does not know a language or fails, or ranks have no cache to share; then all ranks
        stop, within a batch.
        """
        if self._cache is None and world_size() > 1:
            raise UserError("--cache: several ranks translate through a cache that all can read; name its folder")
        with TemporaryDirectory() as forgotten:
            key = together(lambda: self._engine.key(source, target), self._device)
            cache = TextCache(self._cache or Path(forgotten), key)
            work = _Work(self._engine, cache, source, target, self._device)
            pieces = [self._pieces_of(text) for text in texts]
            translated = _translated({piece.sentence for text in pieces for piece in text}, work, progress)
            return [
                _joined(text, translated, work.space) if text else given
                for text, given in zip(pieces, texts, strict=True)
            ]


class _Work:
    """One pair of languages: sentences through the engine and the cache."""

    def __init__(self, engine: Engine, cache: TextCache, source: str, target: str, device: torch.device) -> None:
        self._engine, self._cache, self._source, self._target, self._device = engine, cache, source, target, device
        self.space = "" if check_language(target).endswith(WITHOUT_SPACES) else " "

    def translate(self, sentences: Iterable[str], progress: Progress) -> dict[str, str]:
        """Translations by sentence; long ones part by part."""
        parts = {sentence: self._parts(sentence) for sentence in sentences}
        self._fill(sorted({part for own in parts.values() for part in own}), progress)
        return {sentence: self.space.join(self._cache[part] for part in own) for sentence, own in parts.items()}

    def _fill(self, sentences: list[str], progress: Progress) -> None:
        """Translate what the cache lacks, each rank of its own share of all sentences, the longest first."""
        # Whose a sentence is depends on the texts alone: what the cache holds depends on when a rank looks.
        own = [sentence for sentence in sentences[own_rank() :: world_size()] if sentence not in self._cache]
        most_batches = ceil(ceil(len(sentences) / world_size()) / self._engine.batch_size)
        for _ in each_together(self._batches(own, most_batches, progress), self._device):
            pass
        if world_size() > 1:
            self._cache.reload()

    def _batches(self, own: Sequence[str], most: int, progress: Progress) -> Iterator[int]:
        """Numbers of batches, each translated when it is asked for; `most` on every rank, whatever its cache holds already."""
        lengths = [self._engine.length(sentence, self._source) for sentence in own]
        batches, done = longest_first(lengths, self._engine.batch_size), 0
        for number in range(most):
            if asked := [own[i] for i in next(batches, ())]:
                self._cache.add(zip(asked, self._engine.translate(asked, self._source, self._target), strict=True))
                progress(done := done + len(asked), len(own))
            yield number

    def _parts(self, sentence: str) -> list[str]:
        """The sentence, or where it is too long its parts."""
        if len(sentence) < 2 or self._engine.fits(sentence, self._source):
            return [sentence] if sentence else []
        return [part for half in cut_in_two(sentence) if half for part in self._parts(half)]


def _translated(sentences: set[Sentence], work: _Work, progress: Progress) -> dict[Sentence, str]:
    """Each sentence; where the translation lost something that is kept, what stands between is translated alone."""
    found = work.translate({sentence.asked for sentence in sentences}, progress)
    lost = {sentence for sentence in sentences if not sentence.is_kept_in(found[sentence.asked])}
    # Decided by the cache, so that all ranks come here or none.
    between: Mapping[str, str] = (
        work.translate({part for own in lost for part in own.between}, progress) if lost else {}
    )
    return {
        sentence: sentence.around(between) if sentence in lost else sentence.restored(found[sentence.asked])
        for sentence in sentences
    }


def _joined(pieces: list[Piece], translated: Mapping[Sentence, str], space: str) -> str:
    """Sentences put together: a line break or what is kept stays, other gaps are one space, or none in scripts without."""
    text = ""
    for gap, sentence in pieces:
        text += (gap if "\n" in gap or gap.strip() else space if text else "") + translated[sentence]
    return text
