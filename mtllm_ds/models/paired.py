"""Two passes through the same frozen layers, layer by layer: ZeRO-3 gathers each layer once for both.

A pass by the teacher (adapters off, no gradient) and then one by the student gather every layer three times a step: the teacher's
forward, the student's, its backward. Side by side it is two.

No family's forward is written anew. The first pass runs the model's own forward over *recorders* in place of its layers, which keep
what each layer is given; within the last of them the second pass runs as it always does, but each layer first takes the first
pass a step further; then the first pass goes on behind its last layer. Activation checkpointing of transformers wraps what is
within a layer, so that backward computes the second pass alone anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import nn

from mtllm_ds.models.untrained import Untrained
from mtllm_ds.step_parts import in_part

First = TypeVar("First")
Second = TypeVar("Second")


class PairedSweep:
    """Runs a first pass without what was trained beside a second one, each through all layers of one model.

    Args:
        model: of transformers, LoRA in place
        gives_tuples: whether its layers return their states as the first of a tuple
        kept: the adapter that is on in the first pass too, if any
    """

    def __init__(self, model: nn.Module, *, gives_tuples: bool, kept: str | None = None) -> None:
        self._owner, self._name = layers_of(model)
        self._layers = self._owner.get_submodule(self._name)
        self.layers = list(self._layers.children())
        self._recorders = [_Recorder(layer, gives_tuples, self) for layer in self.layers]
        self._in_their_place = nn.ModuleList(self._recorders)
        self._states: torch.Tensor | None = None
        self._second: Callable[[], object] = _nothing
        for layer, recorder in zip(self.layers, self._recorders, strict=True):
            self._pair(layer, recorder, Untrained(layer, kept=kept))

    def __call__(self, first: Callable[[], First], second: Callable[[], Second]) -> tuple[First, Second]:
        """What both give. Each runs the model once, `first` without gradients."""
        found: list[Second] = []
        self._second = lambda: found.append(second())
        try:
            with self._recording():
                told = first()
        finally:
            self._states, self._second = None, _nothing
            for recorder in self._recorders:
                recorder.given = None
        (other,) = found
        return told, other

    def reach(self, recorder: _Recorder, states: torch.Tensor) -> torch.Tensor:
        """The first pass is at a layer with these states: what comes out of it, which is known (and read) of the last one alone."""
        if self._states is None:
            self._states = states
        if recorder is not self._recorders[-1]:
            return states
        self._owner._modules[self._name] = self._layers
        self._second()
        assert all(other.given is None for other in self._recorders), "the second pass left a layer out"
        return self._states

    @contextmanager
    def _recording(self) -> Iterator[None]:
        self._owner._modules[self._name] = self._in_their_place
        try:
            yield
        finally:
            self._owner._modules[self._name] = self._layers

    def _pair(self, layer: Any, recorder: _Recorder, untrained: Untrained) -> None:
        run = layer.forward

        @wraps(run)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if recorder.given is not None:
                (more, named), recorder.given = recorder.given, None
                with in_part("teacher"), torch.no_grad(), untrained():
                    out = run(self._states, *more, **named)
                self._states = out[0] if isinstance(out, tuple) else out
            return run(*args, **kwargs)

        layer.forward = forward


class _Recorder(nn.Module):
    """Stands in for a layer and keeps what that is given beside its states."""

    def __init__(self, layer: nn.Module, gives_tuples: bool, sweep: PairedSweep) -> None:
        super().__init__()
        # No child of this module: ZeRO gathers nothing for it.
        self.__dict__ |= {"layer": layer, "sweep": sweep, "gives_tuples": gives_tuples}
        # A model asks its weights for their dtype and device, and outside of its layers there may be none that ZeRO knows.
        self._parameters["of_layer"] = next(layer.parameters())
        self.given: tuple[tuple, dict[str, Any]] | None = None

    def __getattr__(self, name: str) -> Any:
        """Models ask layers for their kind, to choose a mask."""
        return getattr(self.__dict__["layer"], name)

    def forward(self, hidden_states: torch.Tensor, /, *args: Any, **kwargs: Any) -> Any:
        self.given = args, kwargs
        states = self.sweep.reach(self, hidden_states)
        return (states,) if self.gives_tuples else states


def layers_of(model: Any) -> tuple[nn.Module, str]:
    """The module that holds the layers of a model of transformers as a list, and the list's name there.

    Raises:
        LookupError: there is no such list.
    """
    depth = model.config.get_text_config().num_hidden_layers
    for owner in model.modules():  # from the outside in
        for name, part in owner.named_children():
            if isinstance(part, nn.ModuleList) and len(part) == depth and any(True for _ in part.parameters()):
                return owner, name
    raise LookupError(f"its {depth} layers stand in no list")


def _nothing() -> None:
    raise AssertionError("the first pass runs the layers once")
