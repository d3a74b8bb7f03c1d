"""The stacked model: encoder -> connector -> LLM with LoRA, beside the same LLM without it.

Shapes: B samples, S_e encoder tokens, S_l LLM tokens, D_e and D_l the widths of encoder and LLM.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.data.stream.packing import PackedBatch
from mtllm_ds.models.centring import LanguageCentring
from mtllm_ds.models.encoders import FrozenEncoder
from mtllm_ds.models.lora import adapters_off, lora_layers
from mtllm_ds.models.packed import run_packed
from mtllm_ds.models.readers import Reader, base_of, mean_pool, unpack


class StackedModel(Reader):
    """Student and teacher in one module: they share the frozen LLM. As a reader it is the student."""

    side = "encoder"

    def __init__(self, encoder: FrozenEncoder, connector: nn.Module, llm: PeftModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.connector = connector
        self.llm = llm
        self.centring: LanguageCentring | None = None
        self._lora_layers = lora_layers(llm)

    @property
    def adapted(self) -> PeftModel:
        return self.llm

    @property
    def running_models(self) -> list[Any]:
        return [self.encoder.model, self.llm]

    def states(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Final states of the stack: (B, S_e) ids and mask -> (B, S_e, D_l), with gradients."""
        embeddings = self.connector(self._encoded(ids, mask))
        return base_of(self.llm)(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state

    def packed_states(self, packed: PackedBatch) -> torch.Tensor:
        """Final states of the stack for packed samples: (R, P, D_l), with gradients."""
        states = [
            self._encoded(ids, mask).flatten(0, 1)
            for ids, mask in zip(packed.encoder_buckets, packed.encoder_bucket_masks, strict=True)
        ]
        embeddings = self.connector(packed.encoder.gather(torch.cat(states)))
        return run_packed(base_of(self.llm), packed.encoder, inputs_embeds=embeddings)

    def _encoded(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What enters the connector: (B, S_e, D_e)."""
        states = self.encoder(ids, mask)
        return states if self.centring is None else self.centring(states, ids)

    @torch.no_grad()
    def teacher_states(self, llm_ids: torch.Tensor, llm_mask: torch.Tensor) -> torch.Tensor:
        """Final states of the plain LLM (adapters and dropout off): (B, S_l) -> (B, S_l, D_l), no gradients."""
        with self._as_teacher():
            return base_of(self.llm)(input_ids=llm_ids, attention_mask=llm_mask).last_hidden_state

    @torch.no_grad()
    def teacher_vectors(self, batch: Batch) -> torch.Tensor:
        """Mean-pooled final states of the plain LLM for a batch, packed or padded: (B, D_l) float32, no gradients."""
        if batch.packed is None:
            return mean_pool(self.teacher_states(batch.llm_ids, batch.llm_mask), batch.llm_mask)
        return batch.packed.llm.sample_means(self._packed_teacher_states(batch.packed))

    @torch.no_grad()
    def padded_teacher_states(self, batch: Batch) -> torch.Tensor:
        """Final states of the plain LLM at the places of `llm_ids`, packed or padded: (B, S_l, D_l), no gradients."""
        if batch.packed is None:
            return self.teacher_states(batch.llm_ids, batch.llm_mask)
        return unpack(batch.packed.llm, self._packed_teacher_states(batch.packed), batch.llm_ids.shape[1])

    def _packed_teacher_states(self, packed: PackedBatch) -> torch.Tensor:
        with self._as_teacher():
            return run_packed(base_of(self.llm), packed.llm, input_ids=packed.llm_ids)

    @contextmanager
    def _as_teacher(self) -> Iterator[None]:
        """Adapters and dropout off inside."""
        was_training = self.llm.training
        self.llm.eval()
        try:
            with adapters_off(self._lora_layers):
                yield
        finally:
            self.llm.train(was_training)
