"""Mean-pooled states of an MT model's encoder, the model loaded alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mtllm_ds.config.sections import EncoderSettings
from mtllm_ds.data.text.task_encoding import encode_item
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.models.encoders import load_encoder
from mtllm_ds.models.readers import mean_pool


class MeanStates:
    """Call it with texts of one language (FLORES-200 code): (n, d) float64 means over `[tag] x </s>`."""

    def __init__(self, mt: str, max_length: int, device: str = "cpu", batch_size: int = 64) -> None:
        self._encoder = load_encoder(EncoderSettings(name=mt, max_length=max_length), "sdpa", torch.float32).to(device)
        self._tokenizer = load_text_tokenizer(TokenizerSpec(name=mt, side="encoder", max_length=max_length))
        self._device = device
        self._batch_size = batch_size

    def __call__(self, texts: Sequence[str], language: str) -> np.ndarray:
        limit = self._tokenizer.spec.max_length
        rows = [encode_item(self._tokenizer, (text,), (), language, limit).ids for text in texts]
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        means = np.zeros((len(rows), self._encoder.hidden_size))
        for start in range(0, len(order), self._batch_size):
            chosen = order[start : start + self._batch_size]
            ids = torch.full((len(chosen), -8 * (-len(rows[chosen[0]]) // 8)), self._tokenizer.pad_id)
            mask = torch.zeros_like(ids)
            for place, row in enumerate(chosen):
                ids[place, : len(rows[row])] = torch.tensor(rows[row])
                mask[place, : len(rows[row])] = 1
            ids, mask = ids.to(self._device), mask.to(self._device)
            means[chosen] = mean_pool(self._encoder(ids, mask), mask).cpu().double().numpy()
        return means
