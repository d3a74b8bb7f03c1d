"""Translation with a seq2seq MT model of transformers: sentence by sentence, batched by length, cached on disk, over ranks.

Which models: those with a tag for each side (NLLB, M2M100), MADLAD into English, and models of one pair of languages without
tags (Marian).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mtllm_ds.cluster.agree import own_rank, wait_for_all, world_size
from mtllm_ds.config.names import resolve_model_name
from mtllm_ds.data.text.padding import longest_first, padded
from mtllm_ds.data.text.tokenization import TextTokenizer, TokenizerSpec, load_text_tokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.languages import ENGLISH, check_language
from mtllm_ds.models.loading import load_config, load_weights, weights_fingerprint
from mtllm_ds.transfer_sets.sentences import cut_in_two, split_sentences
from mtllm_ds.transfer_sets.text_cache import TextCache

WITHOUT_SPACES = ("Jpan", "Hans", "Hant", "Thai", "Laoo", "Tibt")
"""Scripts that put no space between sentences."""
_FAMILY_OF_MODEL = {"m2m_100": "auto", "nllb-moe": "auto", "t5": "auto", "marian": "t5"}
_TAGGED = ("nllb", "m2m100")

Progress = Callable[[int, int], None]
"""(sentences that are done, all that this rank has to do)"""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How translations are searched for; part of the cache's key."""

    num_beams: int = 1
    """1 is greedy."""
    max_source_tokens: int = 128
    """A longer sentence is cut, and its parts are translated one by one; tag and end are counted."""
    length_ratio: float = 1.5
    extra_tokens: int = 10
    """A translation has at most `length_ratio` times the tokens of its source, and `extra_tokens` more."""


class Translator:
    """An MT model with its cache; `translate` is all there is to call.

    Args:
        model: a seq2seq model with `generate`, in evaluation mode
        tokenizer: template and ids of its source side
        fingerprint: of weights and dtype, for the cache
        cache: folder of the cache; None forgets everything after each call
    """

    def __init__(self, model: Any, tokenizer: TextTokenizer, fingerprint: str, cache: Path | None) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._fingerprint = fingerprint
        self._cache = cache

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        cache: Path | None = None,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Translator:
        """Load a hub name, local folder or model that ships; raises `UserError` if that is no MT model."""
        from transformers import AutoModelForSeq2SeqLM

        name = resolve_model_name(name)
        config = load_config(name, revision, False, "--mt")
        if config.model_type not in _FAMILY_OF_MODEL:
            known = ", ".join(_FAMILY_OF_MODEL)
            raise UserError(
                f"--mt={name}: a {config.model_type} model; translation is known of {known}, name one of these"
            )
        spec = TokenizerSpec(name=name, revision=revision, side="encoder", family=_FAMILY_OF_MODEL[config.model_type])
        tokenizer = load_text_tokenizer(spec)
        model = load_weights(AutoModelForSeq2SeqLM, name, "--mt", revision=revision, dtype=dtype)
        placed: Any = model.eval()
        return cls(placed.to(device), tokenizer, f"{weights_fingerprint(name, revision)} {dtype}", cache)

    def translate(
        self,
        texts: Sequence[str],
        source: str,
        target: str,
        decoding: Decoding = Decoding(),
        *,
        batch_size: int = 64,
        progress: Progress = lambda done, total: None,
    ) -> list[str]:
        """Translations of whole texts, in order; a blank text stays as it is.

        With several ranks (which all call this with the same texts) each translates its share and reads the others' from the
        cache. Raises `UserError` if the model has no tag for a language, or ranks have no cache to share.
        """
        if self._cache is None and world_size() > 1:
            raise UserError("--cache: several ranks translate through a cache that all can read; name its folder")
        with TemporaryDirectory() as forgotten:
            cache = TextCache(self._cache or Path(forgotten), self._key(source, target, decoding))
            pieces = [
                [(gap, self._parts(text, source, decoding)) for gap, text in split_sentences(text)] for text in texts
            ]
            sentences = sorted({part for text in pieces for _, parts in text for part in parts})
            self._fill(cache, sentences, source, target, decoding, batch_size, progress)
            return [self._joined(text, cache, original, target) for text, original in zip(pieces, texts, strict=True)]

    def _fill(
        self,
        cache: TextCache,
        sentences: list[str],
        source: str,
        target: str,
        decoding: Decoding,
        batch_size: int,
        progress: Progress,
    ) -> None:
        """Translate what the cache lacks, each rank of its own share of all sentences, the longest first."""
        # Whose a sentence is depends on the texts alone: what the cache holds depends on when a rank looks.
        own = [sentence for sentence in sentences[own_rank() :: world_size()] if sentence not in cache]
        done = 0
        lengths = [len(self._source_ids(sentence, source)) for sentence in own]
        for batch in longest_first(lengths, batch_size):
            cache.add(
                zip(
                    [own[i] for i in batch],
                    self._generate([own[i] for i in batch], source, target, decoding),
                    strict=True,
                )
            )
            done += len(batch)
            progress(done, len(own))
        wait_for_all()
        if world_size() > 1:
            cache.reload()

    @torch.no_grad()
    def _generate(self, sentences: list[str], source: str, target: str, decoding: Decoding) -> list[str]:
        """One batch: source ids padded on the right, `forced_bos_token_id` the tag of the target where the model has tags."""
        rows = [self._source_ids(sentence, source) for sentence in sentences]
        ids, mask = padded(rows, self._tokenizer.pad_id, multiple_of=8)
        limits = [int(decoding.length_ratio * len(row)) + decoding.extra_tokens for row in rows]
        generated = self._model.generate(
            input_ids=ids.to(self._model.device),
            attention_mask=mask.to(self._model.device),
            max_new_tokens=max(limits),
            num_beams=decoding.num_beams,
            do_sample=False,
            use_cache=True,
            **({} if (tag := self._target_tag(target)) is None else {"forced_bos_token_id": tag}),
        )
        # Each row ends at its own limit, whoever shares its batch; the first token is the decoder's start.
        ended = [row[: 1 + limit] for row, limit in zip(generated.tolist(), limits, strict=True)]
        return [self._tokenizer.decode(row).strip() for row in ended]

    def _source_ids(self, sentence: str, source: str) -> list[int]:
        return self._tokenizer([sentence], source)

    def _target_tag(self, target: str) -> int | None:
        """Id of the target's tag, None for a model that translates into one language only."""
        if self._tokenizer.family in _TAGGED:
            return self._tokenizer.join([[]], target)[0]
        if self._tokenizer.family == "madlad" and check_language(target) != ENGLISH:
            raise UserError(
                f"MT model {self._tokenizer.spec.name}: MADLAD is asked for English only here, not {target}"
            )
        return None

    def _parts(self, sentence: str, source: str, decoding: Decoding) -> list[str]:
        """The sentence, or where it is too long its parts."""
        if len(self._source_ids(sentence, source)) <= decoding.max_source_tokens or len(sentence) < 2:
            return [sentence]
        return [part for half in cut_in_two(sentence) if half for part in self._parts(half, source, decoding)]

    def _joined(self, pieces: list[tuple[str, list[str]]], cache: TextCache, original: str, target: str) -> str:
        """Sentences put together: a line break stays one, anything else is one space, or none in scripts without."""
        if not pieces:
            return original
        space = "" if check_language(target).endswith(WITHOUT_SPACES) else " "
        text = ""
        for gap, parts in pieces:
            between = gap if "\n" in gap else space if text else ""
            text += between + space.join(cache[part] for part in parts)
        return text

    def _key(self, source: str, target: str, decoding: Decoding) -> dict[str, Any]:
        """Everything besides the sentence that decides its translation; a tag that the model lacks is told here."""
        self._tokenizer.check_tag(source)
        self._target_tag(target)
        return {
            "model": self._fingerprint,
            "tokenizer": self._tokenizer.fingerprint,
            "source": check_language(source),
            "target": check_language(target),
            **asdict(decoding),
        }
