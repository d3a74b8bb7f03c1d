"""What reads a text and gives states: the stack, the LLM alone or the MT encoder alone, all behind one small interface.

Shapes: B samples, S tokens, C choices, D the width of the vectors; packed rows are R rows of P tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from mtllm_ds.config.sections import Pooling
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.data.stream.packing import PackedBatch, PackedRows
from mtllm_ds.models import whole_masks
from mtllm_ds.models.packed import run_packed
from mtllm_ds.models.pooling import pool, pool_packed, pool_spans
from mtllm_ds.models.text_models import state_size
from mtllm_ds.observe.flops import note_padded

Side = Literal["encoder", "llm"]


class Reader(nn.Module, ABC):
    """Gives states and vectors of the ids of its side."""

    side: ClassVar[Side]
    """Whose ids it reads."""
    pooling: Pooling = "mean"
    """How states become vectors (`model.pooling`)."""

    @property
    @abstractmethod
    def trained_model(self) -> Any:
        """The transformers model that trains: with LoRA PEFT's wrapper of it, else the model itself."""

    @property
    def hidden_size(self) -> int:
        """Width D of the vectors."""
        return state_size(self.trained_model.config)

    @property
    def running_models(self) -> list[Any]:
        """The transformers models that a forward runs through."""
        return [self.trained_model]

    @abstractmethod
    def states(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Final states: (B, S) int64 ids and mask -> (B, S, D), with gradients."""

    @abstractmethod
    def packed_states(self, packed: PackedBatch) -> torch.Tensor:
        """Final states of packed samples: (R, P, D) in the layout of the reader's side."""

    def vectors(self, batch: Batch) -> torch.Tensor:
        """Pooled final states of a batch, packed or padded: (B, D) float32, with gradients."""
        if batch.packed is not None:
            return pool_packed(self.packed_states(batch.packed), self._layout(batch.packed), self.pooling)
        ids, mask = self.ids_and_mask(batch)
        return pool(self.states(ids, mask), mask, self.pooling)

    def choice_vectors(self, batch: Batch, spans: torch.Tensor) -> torch.Tensor:
        """Pooled final states of each span (B, C, 2) of token positions: (B, C, D) float32; zeros for an empty span."""
        return pool_spans(self.padded_states(batch), spans, self.pooling)

    def padded_states(self, batch: Batch) -> torch.Tensor:
        """Final states at the places of the padded ids, whether or not the batch is packed: (B, S, D), with gradients."""
        ids, mask = self.ids_and_mask(batch)
        if batch.packed is None:
            return self.states(ids, mask)
        return unpack(self._layout(batch.packed), self.packed_states(batch.packed), ids.shape[1])

    def ids_and_mask(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The padded ids that this reader reads, (B, S) int64, and their mask."""
        if self.side == "encoder":
            return batch.encoder_ids, batch.encoder_mask
        return batch.llm_ids, batch.llm_mask

    def _layout(self, packed: PackedBatch) -> PackedRows:
        return packed.encoder if self.side == "encoder" else packed.llm


class LLMReader(Reader):
    """The LLM reads the text itself: `<bos> x`."""

    side = "llm"

    def __init__(self, llm: PeftModel | PreTrainedModel) -> None:
        super().__init__()
        self.llm = llm

    @property
    def trained_model(self) -> Any:
        return self.llm

    def states(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return read_padded(self.llm, mask, input_ids=ids)

    def packed_states(self, packed: PackedBatch) -> torch.Tensor:
        return run_packed(base_of(self.llm), packed.llm, input_ids=packed.llm_ids)

    def embeddings(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What the LLM's first layer reads: (B, S) ids -> (B, S, D)."""
        return token_embeddings(self.llm, ids)


class EncoderReader(Reader):
    """The MT encoder reads the text: `[src_lang] x </s>`. Its own dropout and layerdrop are off."""

    side = "encoder"

    def __init__(self, encoder: PeftModel | PreTrainedModel) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    def trained_model(self) -> Any:
        return self.encoder

    def states(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        model = base_of(self.encoder)
        note_padded(model, mask)
        whole = whole_masks.attention_mask(model, mask, causal=False)
        return model(input_ids=ids, attention_mask=whole).last_hidden_state

    def packed_states(self, packed: PackedBatch) -> torch.Tensor:
        states = [
            self.states(ids, mask).flatten(0, 1)
            for ids, mask in zip(packed.encoder_buckets, packed.encoder_bucket_masks, strict=True)
        ]
        return packed.encoder.gather(torch.cat(states))


def base_of(model: PeftModel | PreTrainedModel) -> Any:
    """The transformers model itself, LoRA in place."""
    return model.base_model.model if isinstance(model, PeftModel) else model


def token_embeddings(llm: PeftModel | PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Input embeddings of ids: (B, S) int64 -> (B, S, D)."""
    embedded: torch.Tensor = base_of(llm).get_input_embeddings()(ids)
    return embedded


def read_padded(llm: PeftModel | PreTrainedModel, mask: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
    """Final states of an LLM for padded `input_ids` (B, S) or `inputs_embeds` (B, S, D): (B, S, D)."""
    model = base_of(llm)
    note_padded(model, mask)
    whole = whole_masks.attention_mask(model, mask, causal=whole_masks.is_causal(model))
    return model(**inputs, attention_mask=whole).last_hidden_state


def unpack(layout: PackedRows, states: torch.Tensor, width: int) -> torch.Tensor:
    """Packed states back to a padded row a sample: (R, P, D) -> (B, width, D), zeros at padding."""
    padded = states.new_zeros(len(layout.cu_seqlens) - 1, width, states.shape[-1])
    places = layout.of_tokens(layout.segment_ids), layout.of_tokens(layout.position_ids)
    return padded.index_put(places, layout.of_tokens(states))
