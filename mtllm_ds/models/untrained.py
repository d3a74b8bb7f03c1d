"""A model as it is without what was trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from mtllm_ds.models.evaluating import Evaluating
from mtllm_ds.models.lora import adapters_off, lora_layers, one_adapter


class Untrained:
    """`with untrained():` adapters and dropout are off in a model, or a part of one.

    Args:
        kept: the one adapter that stays on, if any
    """

    def __init__(self, model: nn.Module, *, kept: str | None = None) -> None:
        self._evaluating = Evaluating(model)
        self._lora_layers, self._kept = lora_layers(model), kept
        self._on = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._on:
            self._enter()
            yield

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Within `with untrained():`, the model as it was before."""
        self._on.close()
        try:
            yield
        finally:
            self._enter()

    def _enter(self) -> None:
        self._on.enter_context(self._evaluating())
        layers, kept = self._lora_layers, self._kept
        self._on.enter_context(adapters_off(layers) if kept is None else one_adapter(layers, kept))
