"""What one forward and backward of a run's objective does, as ZeRO and a GPU see it: plain data, no tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

EventKind = Literal["enter", "leave", "enter_backward", "leave_backward", "touch", "gradient"]
"""A module's forward begins and ends, its backward begins and ends; a weight is read outside of its module; a weight's gradient
is there."""


@dataclass(frozen=True)
class Weight:
    """One parameter of the objective."""

    name: str
    numel: int
    group: int | None
    """AdamW's group of it; None where it is frozen"""
    part: str = ""
    """Of a frozen one: as `preflight.whole` calls what it belongs to"""
    is_whole: bool = False
    """Under ZeRO-3, too, every rank keeps it whole"""

    @property
    def trains(self) -> bool:
        """Whether it has a gradient."""
        return self.group is not None


@dataclass(frozen=True)
class Module:
    """One module of the objective; one that stands in two places counts twice, as it does for ZeRO."""

    weights: tuple[int, ...]
    """Positions in `Trace.weights` of those that are whole while it runs: its own; of a ZeRO-3 leaf all below it"""
    below: tuple[int, ...]
    """Its own and all below it"""
    is_leaf: bool
    """Its weights are gathered together, and its children take no part"""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that ZeRO's hooks answer to."""

    kind: EventKind
    module: int = -1
    """Position in `Trace.modules`; of a touch, the module whose forward runs"""
    weight: int = -1
    """Position in `Trace.weights`, of a touch or a gradient"""
    is_recomputed: bool = False
    """A forward inside the backward (activation checkpointing)"""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operator of the forward or backward."""

    flops: int
    """Multiplications and additions of its matrix products; 0 of everything else"""
    traffic_bytes: int
    """Bytes that it reads and writes if nothing stays in a cache"""


@dataclass(frozen=True)
class Trace:
    """One forward and backward of one micro-batch on one rank."""

    weights: Sequence[Weight]
    modules: Sequence[Module]
    events: Sequence[Event]
    operations: Sequence[Operation]
    peak_bytes: int
    """Most bytes of tensors that are no parameters, at one moment (`head_bytes` left out)"""
    head_bytes: int
    """Scratch of the fused loss on the head"""
    num_more_weights: int = 0
    """That 8-bit weights are more than the elements which hold them"""

    @property
    def flops(self) -> int:
        """All matrix products."""
        return sum(operation.flops for operation in self.operations)

    @property
    def traffic_bytes(self) -> int:
        """Bytes that all operators read and write."""
        return sum(operation.traffic_bytes for operation in self.operations)

    @property
    def num_trained(self) -> int:
        """Elements that train."""
        return sum(weight.numel for weight in self.weights if weight.trains)

    @property
    def num_whole(self) -> int:
        """Elements that every rank keeps whole under ZeRO-3, too."""
        return sum(weight.numel for weight in self.weights if weight.is_whole)

    def keeping(self, holds: Callable[[str, int], bool]) -> Trace:
        """The same with frozen weights whole where `holds(part, elements)`."""
        weights = [
            weight if weight.trains else replace(weight, is_whole=holds(weight.part, weight.numel))
            for weight in self.weights
        ]
        return replace(self, weights=weights)

    @property
    def num_frozen(self) -> int:
        """Weights that do not."""
        return sum(weight.numel for weight in self.weights if not weight.trains) + self.num_more_weights
