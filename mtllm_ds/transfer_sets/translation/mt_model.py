"""A seq2seq MT model of transformers, asked for a batch of sentences.

Which models: those with a tag for each side (NLLB, M2M100), MADLAD into English, and models of one pair of languages without
tags (Marian).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mtllm_ds.config.names import resolve_model_name
from mtllm_ds.data.text.padding import padded
from mtllm_ds.data.text.tokenization import TextTokenizer, TokenizerSpec, load_text_tokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.languages import ENGLISH, check_language
from mtllm_ds.models.loading import load_config, load_weights, weights_fingerprint

_FAMILY_OF_MODEL = {"m2m_100": "auto", "nllb-moe": "auto", "t5": "auto", "marian": "t5"}
_TAGGED = ("nllb", "m2m100")


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


GREEDY = Decoding()


class MTModel:
    """An `Engine`.

    Args:
        model: a seq2seq model with `generate`, in evaluation mode
        tokenizer: template and ids of its source side
        fingerprint: of weights and dtype, for the cache
        batch_size: sentences per forward
    """

    def __init__(
        self,
        model: Any,
        tokenizer: TextTokenizer,
        fingerprint: str,
        decoding: Decoding = GREEDY,
        batch_size: int = 64,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._fingerprint = fingerprint
        self._decoding = decoding
        self.batch_size = batch_size

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        option: str = "--mt",
        decoding: Decoding = GREEDY,
        batch_size: int = 64,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> MTModel:
        """Load a hub name, local folder or model that ships.

        Args:
            option: that names it, for messages

        Raises:
            UserError: that is no MT model.
        """
        from transformers import AutoModelForSeq2SeqLM

        name = resolve_model_name(name)
        config = load_config(name, revision, False, option)
        if config.model_type not in _FAMILY_OF_MODEL:
            known = ", ".join(_FAMILY_OF_MODEL)
            raise UserError(
                f"{option}={name}: a {config.model_type} model; translation is known of {known}, name one of these"
            )
        spec = TokenizerSpec(name=name, revision=revision, side="encoder", family=_FAMILY_OF_MODEL[config.model_type])
        tokenizer = load_text_tokenizer(spec)
        model = load_weights(AutoModelForSeq2SeqLM, name, option, revision=revision, dtype=dtype)
        placed: Any = model.eval()
        fingerprint = f"{weights_fingerprint(name, revision)} {dtype}"
        return cls(placed.to(device), tokenizer, fingerprint, decoding, batch_size)

    def key(self, source: str, target: str) -> dict[str, Any]:
        """A tag that the model lacks is told here."""
        self._tokenizer.check_tag(source)
        self._target_tag(target)
        return {
            "model": self._fingerprint,
            "tokenizer": self._tokenizer.fingerprint,
            "source": check_language(source),
            "target": check_language(target),
            **asdict(self._decoding),
        }

    def length(self, sentence: str, source: str) -> int:
        """Tokens, tag and end counted."""
        return len(self._source_ids(sentence, source))

    def fits(self, sentence: str, source: str) -> bool:
        return self.length(sentence, source) <= self._decoding.max_source_tokens

    @torch.no_grad()
    def translate(self, sentences: Sequence[str], source: str, target: str) -> list[str]:
        """One batch: source ids padded on the right, `forced_bos_token_id` the tag of the target where the model has tags."""
        decoding = self._decoding
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
                f"--mt={self._tokenizer.spec.name}: MADLAD is asked for English only here, not {target}; name another MT model"
            )
        return None
