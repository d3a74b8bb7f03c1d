"""`MTLLM`: an exported model in three lines, on one device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel

from mtllm_ds.checkpoint.export import Export, read_export
from mtllm_ds.config.schema import EncoderSettings, LLMSettings
from mtllm_ds.data.tokenization import TextTokenizer, TokenizerSpec, load_text_tokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.models.connector import build_connector
from mtllm_ds.models.encoders import load_encoder
from mtllm_ds.models.loading import choose_attention, load_llm, weights_fingerprint
from mtllm_ds.models.readers import mean_pool
from mtllm_ds.models.stacked import StackedModel


class MTLLM:
    """A stacked model that reads any language of its MT encoder.

    >>> model = MTLLM.from_pretrained("runs/demo/export")
    >>> vectors = model.encode(["Guten Morgen"], lang="deu_Latn")   # float32, (1, d)
    """

    def __init__(self, stack: StackedModel, encoder: TextTokenizer, llm: TextTokenizer, device: torch.device) -> None:
        self.stack = stack.eval().requires_grad_(False).to(device)
        self.device = device
        self._encoder_tokenizer = encoder
        self._llm_tokenizer = llm

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        encoder: str | None = None,
        llm: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> MTLLM:
        """Load an export. `encoder` and `llm` replace the places of the base models that the export remembers.

        Raises `UserError` if a file is missing or a base model is not the one the export was trained on.
        """
        export = read_export(Path(folder))
        place = torch.device(device)
        attention = choose_attention("auto", place, dtype)
        encoder_settings = EncoderSettings(**_located(export, "encoder", encoder))
        llm_settings = LLMSettings(**_located(export, "llm", llm), bidirectional=export.bidirectional)
        frozen_encoder = load_encoder(encoder_settings, attention, dtype)
        base = load_llm(llm_settings, attention, dtype)
        connector = build_connector(
            export.connector, frozen_encoder.hidden_size, base.config.hidden_size, seed=0, dtype=dtype
        )
        connector.load_state_dict(export.connector_weights())
        adapted = PeftModel.from_pretrained(base, str(export.adapter_folder), autocast_adapter_dtype=False)
        stack = StackedModel(frozen_encoder, connector.to(dtype), adapted.to(dtype))
        return cls(stack, _tokenizer(export, "encoder"), _tokenizer(export, "llm"), place)

    def encode(self, texts: Sequence[str], lang: str, batch_size: int = 32) -> torch.Tensor:
        """Vectors of texts in one language (FLORES-200 code): (n, d) float32 on the CPU.

        A text longer than the encoder's limit is cut there. An unknown tag raises `UserError` with the nearest code.
        """
        ids = self._student_ids(texts, lang)
        return self._batched(ids, self._encoder_tokenizer.pad_id, batch_size, self.stack.states)

    def encode_with_llm(self, texts: Sequence[str], batch_size: int = 32) -> torch.Tensor:
        """Vectors of the plain LLM reading the texts itself (the teacher's view): (n, d) float32 on the CPU."""
        limit = self._llm_tokenizer.spec.max_length
        ids = [_cut(self._llm_tokenizer([text], None), limit, self._llm_tokenizer) for text in _checked(texts)]
        return self._batched(ids, self._llm_tokenizer.pad_id, batch_size, self.stack.teacher_states)

    def encode_with_encoder(self, texts: Sequence[str], lang: str, batch_size: int = 32) -> torch.Tensor:
        """Mean states of the MT encoder alone: (n, d_encoder) float32 on the CPU."""
        ids = self._student_ids(texts, lang)
        return self._batched(ids, self._encoder_tokenizer.pad_id, batch_size, self.stack.encoder)

    def _student_ids(self, texts: Sequence[str], lang: str) -> list[list[int]]:
        limit = self._encoder_tokenizer.spec.max_length
        return [_cut(self._encoder_tokenizer([text], lang), limit, self._encoder_tokenizer) for text in _checked(texts)]

    @torch.no_grad()
    def _batched(
        self,
        ids: list[list[int]],
        pad_id: int,
        batch_size: int,
        states: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        pooled: dict[int, torch.Tensor] = {}
        for rows in _by_length(ids, batch_size):
            width = max(len(ids[row]) for row in rows)
            tokens = torch.full((len(rows), width), pad_id)
            mask = torch.zeros(len(rows), width, dtype=torch.int64)
            for position, row in enumerate(rows):
                tokens[position, : len(ids[row])] = torch.tensor(ids[row])
                mask[position, : len(ids[row])] = 1
            tokens, mask = tokens.to(self.device), mask.to(self.device)
            for row, vector in zip(rows, mean_pool(states(tokens, mask), mask).cpu(), strict=True):
                pooled[row] = vector
        if not pooled:
            return torch.empty(0, self.stack.hidden_size)
        return torch.stack([pooled[row] for row in range(len(ids))])


def _located(export: Export, side: str, replacement: str | None) -> dict[str, Any]:
    """Settings of one base model, at its old or its new place, checked to be the same model."""
    base = dict(export.bases[side])
    trained_on = base.pop("fingerprint")
    if replacement is not None:
        base |= {"name": replacement, "revision": None}
    name, revision = str(base["name"]), base["revision"]
    if name.startswith((".", "/")) and not Path(name).is_dir():
        raise UserError(
            f"export {export.folder}: its {side} was at {name}, which is gone; pass {side}=<folder or hub name>"
        )
    found = weights_fingerprint(name, revision)
    if found.split(":")[0] == str(trained_on).split(":")[0] and found != trained_on:
        raise UserError(
            f"export {export.folder}: {side} {name} is not the model it was trained on ({found} instead of {trained_on})"
        )
    return base


def _tokenizer(export: Export, side: Literal["encoder", "llm"]) -> TextTokenizer:
    spec = TokenizerSpec(name=str(export.tokenizer_folder(side)), side=side, max_length=export.max_length(side))
    return load_text_tokenizer(spec)


def _checked(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str):
        raise UserError(f"expected a list of texts, got one string ({texts[:30]!r}): put it in a list")
    return texts


def _cut(ids: list[int], limit: int, tokenizer: TextTokenizer) -> list[int]:
    """At most `limit` ids; what the template puts last (</s>) stays last."""
    if len(ids) <= limit:
        return ids
    tail = len(tokenizer.template.suffix)
    return ids[: limit - tail] + (ids[-tail:] if tail else [])


def _by_length(ids: list[list[int]], batch_size: int) -> Iterator[list[int]]:
    """Row numbers in batches of similar length: less padding, and the longest first shows a lack of memory at once."""
    order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
