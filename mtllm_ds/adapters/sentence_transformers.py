"""An export as a `sentence_transformers.SentenceTransformer`, for everything that is built on those: search, clustering, MTEB.

>>> from mtllm_ds.adapters.sentence_transformers import load_sentence_transformer
>>> model = load_sentence_transformer("my_model", lang="deu_Latn")
>>> vectors = model.encode(["Guten Morgen"])                        # numpy float32, (1, d), as MTLLM.encode gives them
>>> vectors = model.encode(["Good morning"], lang="eng_Latn")       # another language for one call

Needs the extra `sentence-transformers` (version 6 or newer).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule

from mtllm_ds.atomic import write_json
from mtllm_ds.data.text.padding import padded
from mtllm_ds.errors import UserError
from mtllm_ds.inference import MTLLM
from mtllm_ds.languages import ENGLISH
from mtllm_ds.models.pooling import pool

_LANGUAGE = "language.json"


class MTLLMModule(InputModule):
    """The one module of such a model: tokenizes with a language tag, reads, and pools the states as the model was trained to."""

    forward_kwargs: ClassVar[set[str]] = {"lang"}  # type: ignore[misc]
    save_in_root = False

    def __init__(self, model: MTLLM, folder: Path, lang: str) -> None:
        """`folder` is the export that `model` was loaded from; texts are in `lang` unless a call says otherwise."""
        super().__init__()
        self.reader = model.reader
        self.lang = lang
        self._tokenize = model.ids
        self._pad_id = model.pad_id
        self._folder = folder
        self._tokenize(("",), lang)  # an unknown tag is told now

    def preprocess(  # type: ignore[override]  # keywords that are misspelt are refused
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        lang: str | None = None,
        task: str | None = None,
        processing_kwargs: dict[str, Any] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Texts, or pairs of texts, as padded ids and mask: (B, S) int64 each.

        `task` and `processing_kwargs` are what the library may hand over; queries and documents are read alike.
        """
        rows = [self._tokenize(_segments(text, prompt), lang or self.lang) for text in inputs]
        ids, mask = padded(rows, self._pad_id)
        return {"input_ids": ids, "attention_mask": mask}

    def forward(  # type: ignore[override]
        self, features: dict[str, torch.Tensor], lang: str | None = None
    ) -> dict[str, torch.Tensor]:
        """Adds `token_embeddings` (B, S, D) and `sentence_embedding` (B, D) float32; `lang` was heeded by `preprocess`."""
        states = self.reader.states(features["input_ids"], features["attention_mask"])
        pooled = pool(states, features["attention_mask"], self.reader.pooling)
        return features | {"token_embeddings": states, "sentence_embedding": pooled}

    def get_embedding_dimension(self) -> int:
        """Width D of the vectors."""
        return self.reader.hidden_size

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """A copy of the export, and the language. Base models stay where they are, as in any export."""
        shutil.copytree(self._folder, output_path, dirs_exist_ok=True)
        write_json(Path(output_path) / _LANGUAGE, {"lang": self.lang})

    @classmethod
    def load(cls, input_path: str) -> MTLLMModule:  # type: ignore[override]
        """Read what `save` wrote; the library asks for it, given `trust_remote_code=True`."""
        folder = Path(input_path)
        lang = json.loads((folder / _LANGUAGE).read_text(encoding="utf-8"))["lang"]
        return cls(MTLLM.from_pretrained(folder), folder, lang)


def load_sentence_transformer(
    folder: str | Path,
    lang: str = ENGLISH,
    *,
    device: str | None = None,
    dtype: torch.dtype = torch.float32,
    encoder: str | None = None,
    llm: str | None = None,
) -> SentenceTransformer:
    """An export as a `SentenceTransformer`; arguments as of `MTLLM.from_pretrained`, `lang` as of `MTLLM.encode`.

    Raises `UserError` as those do. `.save_pretrained(path)` writes a folder that
    `SentenceTransformer(path, trust_remote_code=True)` reads where this package is installed.
    """
    model = MTLLM.from_pretrained(folder, encoder=encoder, llm=llm, dtype=dtype)
    return SentenceTransformer(modules=[MTLLMModule(model, Path(folder), lang)], device=device)


def _segments(text: Any, prompt: str | None) -> tuple[str, ...]:
    segments = (text,) if isinstance(text, str) else tuple(text)
    if not segments or not all(isinstance(segment, str) for segment in segments):
        raise UserError(
            f"inputs: expected a text or a pair of texts, got {type(text).__name__}; give strings or tuples of strings"
        )
    return (f"{prompt}{segments[0]}", *segments[1:]) if prompt else segments
