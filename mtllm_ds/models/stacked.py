"""The stacked model: encoder -> connector -> LLM with LoRA.

Shapes: B samples, S_e encoder tokens, D_e and D_l the widths of encoder and LLM.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.data.stream.packing import PackedBatch
from mtllm_ds.errors import UserError
from mtllm_ds.models.centring import LanguageCentring
from mtllm_ds.models.encoders import StackEncoder
from mtllm_ds.models.layer_mix import LayerMix
from mtllm_ds.models.packed import run_packed
from mtllm_ds.models.readers import Reader, base_of, read_padded
from mtllm_ds.observe.flops import note_packed, note_padded
from mtllm_ds.step_parts import in_part


class StackedModel(Reader):
    """The LLM reads what the encoder says; its teacher is the same LLM (`teachers.frozen_self`).

    Args:
        layer_mix: mixes the layers that the encoder gives; None where it gives its final states alone
    """

    side = "encoder"

    def __init__(
        self,
        encoder: StackEncoder,
        connector: nn.Module,
        llm: PeftModel | PreTrainedModel,
        layer_mix: LayerMix | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.layer_mix = layer_mix
        self.connector = connector
        self.llm = llm
        self.centring: LanguageCentring | None = None

    @property
    def trained_model(self) -> Any:
        return self.llm

    @property
    def running_models(self) -> list[Any]:
        return [self.encoder.model, self.llm]

    def states(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Final states of the stack: (B, S_e) ids and mask -> (B, S_e, D_l), with gradients."""
        return read_padded(self.llm, mask, inputs_embeds=self.embeddings(ids, mask))

    def embeddings(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What the LLM reads in place of embeddings of tokens: (B, S_e) ids and mask -> (B, S_e, D_l), with gradients."""
        return self._embedded(self.encoded(ids, mask), ids, mask)

    def states_of_both(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Final states of the stack (B, S_e, D_l) and those of its encoder (B, S_e, D_e); of one reading unless it mixes layers."""
        encoded = self.encoded(ids, mask)
        said = encoded if self.layer_mix is None else self.encoder.final_states(ids, mask)
        return read_padded(self.llm, mask, inputs_embeds=self._embedded(encoded, ids, mask)), said

    def encoded(self, ids: Any, mask: Any) -> Any:
        """What the encoder says, its layers mixed: (B, S_e) ids and mask -> (B, S_e, D_e); of lists a list."""
        states = self.encoder(ids, mask)
        return states if self.layer_mix is None else self.layer_mix(states)

    def packed_states(self, packed: PackedBatch) -> torch.Tensor:
        """Final states of the stack for packed samples: (R, P, D_l), with gradients."""
        return run_packed(base_of(self.llm), packed.encoder, inputs_embeds=self._heard_packed(packed))

    def heard(self, batch: Batch) -> torch.Tensor:
        """What the LLM is given to read, with gradients: (B, S_e, D_l), or (R, P, D_l) in the layout of packed rows."""
        if batch.packed is not None:
            return self._heard_packed(batch.packed)
        return self.embeddings(batch.encoder_ids, batch.encoder_mask)

    def _heard_packed(self, packed: PackedBatch) -> torch.Tensor:
        buckets = packed.encoder_buckets
        encoded = self.encoded(buckets, packed.encoder_bucket_masks)
        states = [self._centred(own, ids).flatten(0, 1) for own, ids in zip(encoded, buckets, strict=True)]
        rows, width = packed.encoder.source.shape
        note_packed(self.connector, (rows, width), packed.encoder.cu_seqlens)
        return self._connected(packed.encoder.gather(torch.cat(states)))

    def require_mean_of(self, tag_id: int, language: str | None) -> None:
        """Refuse a language that a model which centres by language has no mean of."""
        if self.centring is not None and tag_id not in self.centring.tag_ids:
            raise UserError(
                f"lang={language}: this model centres by language and has no mean of it; train it with text in it"
            )

    def _embedded(self, said: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        note_padded(self.connector, mask)
        return self._connected(self._centred(said, ids))

    def _connected(self, states: torch.Tensor) -> torch.Tensor:
        with in_part("connector"):
            embedded: torch.Tensor = self.connector(states)
            return embedded

    def _centred(self, states: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """What enters the connector: (B, S_e, D_e)."""
        return states if self.centring is None else self.centring(states, ids)
