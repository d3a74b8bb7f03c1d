"""The student's own frozen LLM as the teacher: what trains and dropout off, reading the text that the LLM side holds.

It lies in the same module as the student, so under ZeRO-3 it has to be asked inside the objective's forward.
"""

from __future__ import annotations

import torch
from peft import PeftModel

from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.models.packed import run_packed
from mtllm_ds.models.pooling import pool, pool_packed
from mtllm_ds.models.readers import LLMReader, base_of, read_padded, unpack
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.models.untrained import Untrained
from mtllm_ds.step_parts import in_part
from mtllm_ds.teachers.base import Teacher
from mtllm_ds.weight_names import START


class FrozenSelf(Teacher):
    """The LLM of a student, as it is without what was trained.

    Args:
        keeps_start: the first adapter, which the run took from its start and froze, stays on
    """

    def __init__(self, student: StackedModel | LLMReader, *, keeps_start: bool = False) -> None:
        assert isinstance(student.llm, PeftModel), "what trained is in the weights themselves"
        assert not keeps_start or START in student.llm.peft_config
        self._llm, self._pooling = student.llm, student.pooling
        self._kept = START if keeps_start else None
        self.untrained = Untrained(student.llm, kept=self._kept)
        """`with untrained():` adapters (but for a start that is kept) and dropout off"""

    @torch.no_grad()
    def vectors(self, batch: Batch) -> torch.Tensor:
        """Final states pooled as the student's are, packed or padded: (B, D) float32."""
        with in_part("teacher"):
            if batch.packed is None:
                return pool(self.read(batch.llm_ids, batch.llm_mask), batch.llm_mask, self._pooling)
            return pool_packed(self._packed_states(batch), batch.packed.llm, self._pooling)

    @torch.no_grad()
    def states(self, batch: Batch) -> torch.Tensor:
        """Final states at the places of `llm_ids`, packed or padded: (B, S_l, D)."""
        with in_part("teacher"):
            if batch.packed is None:
                return self.read(batch.llm_ids, batch.llm_mask)
            return unpack(batch.packed.llm, self._packed_states(batch), batch.llm_ids.shape[1])

    @torch.no_grad()
    def read(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Final states of padded ids: (B, S_l) int64 ids and mask -> (B, S_l, D)."""
        with self.untrained():
            return read_padded(self._llm, mask, input_ids=ids)

    def _packed_states(self, batch: Batch) -> torch.Tensor:
        assert batch.packed is not None
        with self.untrained():
            return run_packed(base_of(self._llm), batch.packed.llm, input_ids=batch.packed.llm_ids)
