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

from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.data.stream.packing import PackedBatch, PackedRows
from mtllm_ds.models import whole_masks
from mtllm_ds.models.packed import run_packed
from mtllm_ds.models.text_models import state_size
from mtllm_ds.observe.flops import note_padded

Side = Literal["encoder", "llm"]


class Reader(nn.Module, ABC):
    """Gives states and vectors of the ids of its side."""

    side: ClassVar[Side]
    """Whose ids it reads."""

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
        """Mean-pooled final states of a batch, packed or padded: (B, D) float32, with gradients."""
        if batch.packed is not None:
            return self._layout(batch.packed).sample_means(self.packed_states(batch.packed))
        ids, mask = self.ids_and_mask(batch)
        return mean_pool(self.states(ids, mask), mask)

    def choice_vectors(self, batch: Batch, spans: torch.Tensor) -> torch.Tensor:
        """Mean final states over each span (B, C, 2) of token positions: (B, C, D) float32; zeros for an empty span."""
        return span_means(self.padded_states(batch), spans)

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


def mean_pool(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the unmasked states in float32: (B, S, D), (B, S) -> (B, D); a row without tokens gives zeros."""
    weights = mask.unsqueeze(-1).to(torch.float32)
    return (states.float() * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def span_means(states: torch.Tensor, spans: torch.Tensor) -> torch.Tensor:
    """Mean of the states in each span in float32: (B, S, D), (B, C, 2) [start, end) -> (B, C, D); an empty span gives zeros."""
    positions = torch.arange(states.shape[1], device=states.device)
    inside = ((positions >= spans[..., :1]) & (positions < spans[..., 1:])).to(torch.float32)
    return torch.bmm(inside, states.float()) / inside.sum(-1, keepdim=True).clamp(min=1.0)


def unpack(layout: PackedRows, states: torch.Tensor, width: int) -> torch.Tensor:
    """Packed states back to a padded row a sample: (R, P, D) -> (B, width, D), zeros at padding."""
    padded = states.new_zeros(len(layout.cu_seqlens) - 1, width, states.shape[-1])
    places = layout.of_tokens(layout.segment_ids), layout.of_tokens(layout.position_ids)
    return padded.index_put(places, layout.of_tokens(states))
