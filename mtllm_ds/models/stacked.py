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

from mtllm_ds.config.schema import Settings
from mtllm_ds.data.collate import Batch
from mtllm_ds.models.connector import build_connector
from mtllm_ds.models.encoders import FrozenEncoder, load_encoder
from mtllm_ds.models.liger import use_liger_kernels
from mtllm_ds.models.loading import choose_attention, load_llm
from mtllm_ds.models.lora import adapters_off, add_lora, lora_layers
from mtllm_ds.models.packed import run_packed


class StackedModel(nn.Module):
    """Student and teacher in one module: they share the frozen LLM."""

    def __init__(self, encoder: FrozenEncoder, connector: nn.Module, llm: PeftModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.connector = connector
        self.llm = llm
        self._lora_layers = lora_layers(llm)

    @property
    def hidden_size(self) -> int:
        """Width of the vectors: the LLM's hidden size D_l."""
        return int(self.llm.config.hidden_size)

    def student_states(self, encoder_ids: torch.Tensor, encoder_mask: torch.Tensor) -> torch.Tensor:
        """Final states of the stack: (B, S_e) ids and mask -> (B, S_e, D_l), with gradients."""
        embeddings = self.connector(self.encoder(encoder_ids, encoder_mask))
        return self._run_llm(inputs_embeds=embeddings, attention_mask=encoder_mask)

    @torch.no_grad()
    def teacher_states(self, llm_ids: torch.Tensor, llm_mask: torch.Tensor) -> torch.Tensor:
        """Final states of the plain LLM (adapters and dropout off): (B, S_l) -> (B, S_l, D_l), no gradients."""
        with self._as_teacher():
            return self._run_llm(input_ids=llm_ids, attention_mask=llm_mask)

    def student_vectors(self, batch: Batch) -> torch.Tensor:
        """Mean-pooled final states of the stack for a batch, packed or padded: (B, D_l) float32, with gradients."""
        if batch.packed is None:
            return mean_pool(self.student_states(batch.encoder_ids, batch.encoder_mask), batch.encoder_mask)
        packed = batch.packed
        states = [
            self.encoder(ids, mask).flatten(0, 1)
            for ids, mask in zip(packed.encoder_buckets, packed.encoder_bucket_masks, strict=True)
        ]
        embeddings = self.connector(packed.encoder.gather(torch.cat(states)))
        return packed.encoder.sample_means(run_packed(self._base, packed.encoder, inputs_embeds=embeddings))

    @torch.no_grad()
    def teacher_vectors(self, batch: Batch) -> torch.Tensor:
        """Mean-pooled final states of the plain LLM for a batch, packed or padded: (B, D_l) float32, no gradients."""
        if batch.packed is None:
            return mean_pool(self.teacher_states(batch.llm_ids, batch.llm_mask), batch.llm_mask)
        packed = batch.packed
        with self._as_teacher():
            return packed.llm.sample_means(run_packed(self._base, packed.llm, input_ids=packed.llm_ids))

    @property
    def _base(self) -> Any:
        return self.llm.base_model.model

    def _run_llm(self, **inputs: torch.Tensor) -> torch.Tensor:
        return self._base(**inputs).last_hidden_state

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


def mean_pool(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the unmasked states in float32: (B, S, D), (B, S) -> (B, D); a row without tokens gives zeros."""
    weights = mask.unsqueeze(-1).to(torch.float32)
    return (states.float() * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def build_stacked(settings: Settings, device: torch.device) -> StackedModel:
    """The whole stack of a recipe, frozen but for connector and LoRA; call it inside `partitioned_loading`."""
    dtype = torch.bfloat16 if settings.training.precision == "bf16" else torch.float32
    attention = choose_attention(settings.model.attention, device, dtype)
    encoder = load_encoder(settings.model.encoder, attention, dtype)
    llm = load_llm(settings.model.llm, attention, dtype)
    if settings.model.liger:
        use_liger_kernels(llm, device)
    connector = build_connector(
        settings.model.connector, encoder.hidden_size, llm.config.hidden_size, seed=settings.run.seed, dtype=dtype
    )
    return StackedModel(encoder, connector, add_lora(llm, settings.model.lora, seed=settings.run.seed))
