"""ZeRO-3's gathers of a step, by playing a trace through DeepSpeed's own rules (0.19.8, `partitioned_param_coordinator.py`).

Which weights a forward gathers again, keeps, or fetches ahead follows from thresholds and from the order of all modules; a formula
that leaves these rules out is wrong by a factor of two on small models, and on large ones wherever the last layers of a forward are
kept for the backward. So the coordinator is played to the letter; the number of ranks never enters.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from mtllm_ds.planning.trace import Event, Trace

_STEPS_UNTIL_STEADY = 3
"""In the first forward DeepSpeed records the order of modules, from the second on it fetches ahead by it."""


@dataclass(frozen=True, kw_only=True)
class GatherRules:
    """The settings of `zero_optimization` that decide, as DeepSpeed reads them; sizes in elements."""

    persistence_threshold: int = 10**5
    model_persistence_threshold: int = 2**63 - 1
    max_reuse_distance: int = 10**9
    max_live: int = 10**9
    prefetch_bucket: int = 5 * 10**7
    has_copies: bool = False
    """hpZ: the ranks of a node keep a copy of the weights between them"""

    @classmethod
    def of(cls, zero: Mapping[str, Any]) -> GatherRules:
        """Of a resolved section `zero_optimization`."""
        names = {
            "persistence_threshold": "stage3_param_persistence_threshold",
            "model_persistence_threshold": "stage3_model_persistence_threshold",
            "max_reuse_distance": "stage3_max_reuse_distance",
            "max_live": "stage3_max_live_parameters",
            "prefetch_bucket": "stage3_prefetch_bucket_size",
        }
        given = {own: int(zero[name]) for own, name in names.items() if name in zero}
        return cls(**given, has_copies=int(zero.get("zero_hpz_partition_size", 1)) > 1)


@dataclass(frozen=True)
class Gather:
    """One all-gather."""

    weights: tuple[int, ...]
    from_copies: bool
    """Among the ranks of a node alone"""


@dataclass(frozen=True)
class Gathers:
    """What a step gathers once DeepSpeed knows the order of modules."""

    of_step: Sequence[Gather]
    most_alive: int
    """Most elements of gathered weights at one moment, those that are always whole left out"""


def persistent_weights(trace: Trace, rules: GatherRules) -> frozenset[int]:
    """Weights so small that they stay whole on every rank, and are gathered once a step, after the update."""
    total, found = 0, set()
    for index, weight in enumerate(trace.weights):
        if weight.is_whole:  # not ZeRO's
            continue
        if weight.numel + total <= rules.model_persistence_threshold and weight.numel <= rules.persistence_threshold:
            found.add(index)
            total += weight.numel
    return frozenset(found)


def gathers_of_step(trace: Trace, rules: GatherRules, micro_batches: int) -> Gathers:
    """The all-gathers of a step of `micro_batches` forwards and backwards."""
    player = _Coordinator(trace, rules)
    for _ in range(_STEPS_UNTIL_STEADY):
        player.found = []
        player.most_alive = 0
        for _ in range(micro_batches):
            player.micro_batch()
        player.step()
    return Gathers(player.found, player.most_alive)


class _Status(Enum):
    AWAY, IN_FLIGHT, THERE = range(3)


class _Mode(Enum):
    INVALID, RECORD, COMPLETE = range(3)


@dataclass
class _Coordinator:
    trace: Trace
    rules: GatherRules
    found: list[Gather] = field(default_factory=list)
    most_alive: int = 0

    def __post_init__(self) -> None:
        self.numel = [weight.numel for weight in self.trace.weights]
        self.persistent = persistent_weights(self.trace, self.rules)
        shared = {index for index, weight in enumerate(self.trace.weights) if not weight.is_whole}
        self.own = [shared.intersection(module.weights) for module in self.trace.modules]
        self.below = [shared.intersection(module.below) for module in self.trace.modules]
        self.status = [_Status.AWAY] * len(self.numel)
        self.users: list[set[int]] = [set() for _ in self.numel]
        self.has_copy = [self.rules.has_copies] * len(self.numel)
        self.adopted: dict[int, set[int]] = defaultdict(set)
        """By module: weights of others that it was seen to read"""
        self.recomputed: dict[int, set[int]] = defaultdict(set)
        self.in_backward: dict[int, None] = {}
        self.mode = _Mode.INVALID
        self.order: list[int] = []
        self.uses: list[tuple[int, int]] = []
        self.queue: deque[tuple[int, int]] = deque()
        self.fetched_for: dict[int, int] = {}
        self.position = self.available = self.alive = 0
        self.released: dict[tuple[int, int], set[int]] = {}

    def micro_batch(self) -> None:
        self._begin()
        act = {
            "enter": self._enter, "leave": self._leave, "enter_backward": self._enter_backward,
            "leave_backward": self._leave_backward, "touch": self._touch, "gradient": lambda event: None,
        }  # fmt: skip
        for event in self.trace.events:
            act[event.kind](event)
        while self.in_backward:  # modules whose backward never ended: their input needs no gradient
            module, _ = self.in_backward.popitem()
            weights = self._of(module) | self.recomputed.pop(module, set())
            for weight in weights:
                self.users[weight].discard(module)
                if weight not in self.persistent:
                    self._release(weight)

    def step(self) -> None:
        """The update: everything is released, and what is persistent gathered anew, each by itself."""
        for weight, users in enumerate(self.users):
            users.clear()
            if self.status[weight] is _Status.IN_FLIGHT:
                self.status[weight] = _Status.THERE
            self._release(weight)
        for weight in sorted(self.persistent):
            self._gather([weight], by_copies=False)
            self.status[weight] = _Status.THERE
        if self.rules.has_copies:
            for weight, one in enumerate(self.trace.weights):
                self.has_copy[weight] &= not one.trains

    def _of(self, module: int) -> set[int]:
        return self.own[module] | self.adopted[module]

    def _of_later(self, later: int, releasing: int) -> set[int]:
        """What a later module uses, as DeepSpeed looks at it: by the depth of the module that is released."""
        if self.trace.modules[releasing].is_leaf:
            return self.below[later] | self.adopted[later]
        return (set() if self.trace.modules[later].is_leaf else self.own[later]) | self.adopted[later]

    def _begin(self) -> None:
        """Every forward of the engine begins so."""
        for weight, status in enumerate(self.status):
            if status is _Status.IN_FLIGHT:
                self.status[weight] = _Status.THERE
                self._release(weight)
        if self.mode is _Mode.RECORD:
            self.uses = [(weight, at) for at, module in enumerate(self.order) for weight in sorted(self._of(module))]
            self.mode = _Mode.COMPLETE
        elif self.mode is _Mode.INVALID:
            self.mode = _Mode.RECORD
        self.queue = deque(self.uses)
        self.fetched_for = {}
        self.position = self.available = 0

    def _invalidate(self) -> None:
        self.mode, self.order, self.uses = _Mode.INVALID, [], []
        self.queue, self.fetched_for = deque(), {}
        for weight, status in enumerate(self.status):
            if status is _Status.IN_FLIGHT:
                self.status[weight] = _Status.THERE
                self._release(weight)

    def _enter(self, event: Event) -> None:
        self._fetch(event.module, is_recomputed=event.is_recomputed)

    def _enter_backward(self, event: Event) -> None:
        self.in_backward[event.module] = None
        self._fetch(event.module, is_recomputed=False)

    def _touch(self, event: Event) -> None:
        if self.status[event.weight] is _Status.AWAY and not self.trace.weights[event.weight].is_whole:
            self.adopted[event.module].add(event.weight)
            self._gather([event.weight], by_copies=False)
            self.status[event.weight] = _Status.THERE

    def _fetch(self, module: int, *, is_recomputed: bool) -> None:
        if self.mode is _Mode.COMPLETE and (self.position >= len(self.order) or self.order[self.position] != module):
            self._invalidate()
        if self.mode is _Mode.RECORD:
            self.order.append(module)
        needed = self._of(module)
        self._gather_together(needed)
        for weight in needed:
            self.users[weight].add(module)
            if is_recomputed and self.in_backward and not self.trace.weights[weight].trains:
                owner = next(reversed(self.in_backward))
                self.recomputed[owner].add(weight)
                self.users[weight].add(owner)
            self.status[weight] = _Status.THERE
        if self.mode is _Mode.COMPLETE:
            self._fetch_ahead(needed)
        self.position += 1

    def _fetch_ahead(self, needed: set[int]) -> None:
        awaited = {weight for weight in needed if self.fetched_for.get(weight, -1) < self.position}
        passed: set[int] = set()
        while self.queue and len(passed) < len(awaited):
            weight, at = self.queue.popleft()
            self.fetched_for[weight] = at
            passed.add(weight)
        ahead: dict[int, None] = {}
        num_ahead, most = 0, min(self.rules.max_live - self.available, self.rules.prefetch_bucket)
        while self.rules.prefetch_bucket and self.queue and num_ahead < most:
            weight, at = self.queue.popleft()
            self.fetched_for[weight] = max(self.fetched_for.get(weight, at), at)
            if self.status[weight] is _Status.AWAY and weight not in ahead:
                ahead[weight] = None
                num_ahead += self.numel[weight]
        self._gather_together(ahead)

    def _leave(self, event: Event) -> None:
        self._let_go(event.module, set(self._releasable(event.module)), self._of(event.module))

    def _leave_backward(self, event: Event) -> None:
        module = event.module
        again = self.recomputed.pop(module, set())
        releasable = self._releasable(module)
        releasable |= {weight for weight in again if weight not in self.persistent}
        self.in_backward.pop(module, None)
        self._let_go(module, releasable, self._of(module) | again)

    def _let_go(self, module: int, releasable: set[int], weights: set[int]) -> None:
        for weight in weights:
            self.users[weight].discard(module)
            if weight in releasable:
                self._release(weight)

    def _releasable(self, module: int) -> set[int]:
        """What a module that ends need not leave to a later one. Kept by (module, position), as DeepSpeed does."""
        if self.mode is not _Mode.COMPLETE:
            return self._of(module)
        key = module, self.position
        if key not in self.released:
            found = {
                weight
                for weight in self._of(module) - self.persistent
                if self.fetched_for.get(weight, -1) <= self.position
            }
            distance = 0
            for later in self.order[self.position :]:
                if distance >= self.rules.max_reuse_distance or not found:
                    break
                weights = self._of_later(later, module)
                found -= weights
                distance += sum(self.numel[weight] for weight in weights)
            self.released[key] = found
        return self.released[key]

    def _release(self, weight: int) -> None:
        if self.status[weight] is _Status.THERE and not self.users[weight]:
            self.status[weight] = _Status.AWAY
            self.available -= self.numel[weight]
            self._count_alive(weight, -1)
            self.has_copy[weight] = self.rules.has_copies

    def _gather_together(self, weights: Mapping[int, None] | set[int]) -> None:
        away = [weight for weight in weights if self.status[weight] is _Status.AWAY]
        for by_copies in (True, False):
            self._gather([weight for weight in away if self.has_copy[weight] is by_copies], by_copies=by_copies)
        self.available += sum(self.numel[weight] for weight in away)

    def _gather(self, weights: list[int], *, by_copies: bool) -> None:
        if not weights:
            return
        self.found.append(Gather(tuple(sorted(weights)), by_copies))
        for weight in weights:
            self.status[weight] = _Status.IN_FLIGHT
            self._count_alive(weight, 1)

    def _count_alive(self, weight: int, sign: int) -> None:
        if weight not in self.persistent:
            self.alive += sign * self.numel[weight]
            self.most_alive = max(self.most_alive, self.alive)
