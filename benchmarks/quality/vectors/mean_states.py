"""Mean-pooled states: of any model, and of an MT model's encoder that is loaded alone."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from mtllm_ds.atomic import write_bytes
from mtllm_ds.config.sections import EncoderSettings
from mtllm_ds.data.text.padding import longest_first, padded
from mtllm_ds.data.text.task_encoding import encode_item
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.models.encoders import load_encoder
from mtllm_ds.models.pooling import pool

States = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class MeanStates:
    """Call it with texts of one language (FLORES-200 code): (n, d) float64 means over `[tag] x </s>`.

    Args:
        cache: folder of means that were read before, by the same encoder and in the same dtype: each list of texts is read once
    """

    def __init__(
        self,
        mt: str,
        max_length: int,
        device: str = "cpu",
        batch_size: int = 64,
        dtype: torch.dtype = torch.float32,
        cache: Path | None = None,
    ) -> None:
        self._encoder = load_encoder(EncoderSettings(name=mt, max_length=max_length), "sdpa", dtype).to(device)
        self._key = [mt, max_length, str(dtype)]
        self._cache = cache
        self._tokenizer = load_text_tokenizer(TokenizerSpec(name=mt, side="encoder", max_length=max_length))
        self._device = device
        self._batch_size = batch_size

    def __call__(self, texts: Sequence[str], language: str) -> np.ndarray:
        if self._cache is None:
            return self._read(texts, language)
        key = json.dumps([*self._key, language, list(texts)]).encode()
        path = self._cache / f"{hashlib.sha256(key).hexdigest()[:32]}.npy"
        if not path.is_file():
            content = io.BytesIO()
            np.save(content, self._read(texts, language))
            write_bytes(path, content.getvalue())
        return np.load(path)

    def _read(self, texts: Sequence[str], language: str) -> np.ndarray:
        limit = self._tokenizer.spec.max_length
        rows = [encode_item(self._tokenizer, (text,), (), language, limit).ids for text in texts]
        states = pooled(rows, self._tokenizer.pad_id, self._encoder, self._device, self._batch_size)
        return states.double().numpy()


@torch.no_grad()
def pooled(
    rows: Sequence[Sequence[int]], pad_id: int, states: States, device: torch.device | str, batch_size: int = 64
) -> torch.Tensor:
    """Means over the tokens of each row of ids, (n, d) float32 on the CPU; `states` gives (B, S, d) of ids and mask (B, S)."""
    means: dict[int, torch.Tensor] = {}
    for batch in longest_first(list(map(len, rows)), batch_size):
        ids, mask = (side.to(device) for side in padded([rows[row] for row in batch], pad_id, multiple_of=8))
        means |= dict(zip(batch, pool(states(ids, mask), mask, "mean").float().cpu(), strict=True))
    return torch.stack([means[row] for row in range(len(rows))])
