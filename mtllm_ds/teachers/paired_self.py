"""The student's own frozen LLM as the teacher, layer by layer beside the student: ZeRO-3 gathers each layer once for both."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.models.paired import PairedSweep
from mtllm_ds.models.readers import LLMReader, base_of
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.step_parts import in_part
from mtllm_ds.teachers.base import Said
from mtllm_ds.teachers.frozen_self import FrozenSelf


class PairedSelf(FrozenSelf):
    """`FrozenSelf`, which shares a pass through the layers with a student that runs its LLM once.

    Args:
        gives_tuples: of the LLM's layers, as `models.pairing` found
        keeps_start: as of `FrozenSelf`
    """

    def __init__(self, student: StackedModel | LLMReader, *, gives_tuples: bool, keeps_start: bool = False) -> None:
        super().__init__(student, keeps_start=keeps_start)
        self.was_asked_beside = False
        """Whether an objective has ever asked so; one that asks by itself (`vectors`, `states`) shares nothing."""
        self._sweep = PairedSweep(base_of(student.llm), gives_tuples=gives_tuples, kept=self._kept)

    @property
    def layers(self) -> list[nn.Module]:
        """The LLM's layers, each used by both in one call."""
        return self._sweep.layers

    def vectors_beside(self, batch: Batch, student: Callable[[], Said]) -> tuple[torch.Tensor, Said]:
        self.was_asked_beside = True
        return self._sweep(lambda: self.vectors(batch), self._trained(student))

    def states_beside(self, batch: Batch, student: Callable[[], Said]) -> tuple[torch.Tensor, Said]:
        self.was_asked_beside = True
        return self._sweep(lambda: self.states(batch), self._trained(student))

    def _trained(self, student: Callable[[], Said]) -> Callable[[], Said]:
        """The student as it is outside of the teacher's pass: adapters, dropout and gradients as they are now."""
        with_gradients = torch.is_grad_enabled()

        def run() -> Said:
            with in_part("student forward"), self.untrained.lifted(), torch.set_grad_enabled(with_gradients):
                return student()

        return run
