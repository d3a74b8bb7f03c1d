"""What a step sends by collective, and what a rank keeps: arithmetic on a trace, for any stage and number of ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

from mtllm_ds.cluster.collectives import passes_of, ring_bytes
from mtllm_ds.config.deepspeed import zero_stage
from mtllm_ds.planning.trace import Trace, Weight
from mtllm_ds.planning.zero3 import Gather, GatherRules, Gathers, gathers_of_step, persistent_weights

Kind = Literal["all_gather", "reduce_scatter", "all_reduce"]
_WEIGHTS, _COPIES, _SMALL = "weights", "weights, of a node's copies", "small weights after the update"
_FP32 = 4
_ALIGNMENT = 2
"""ZeRO-2 fills its groups up to a multiple of this times the number of ranks"""


@dataclass(frozen=True, kw_only=True)
class ZeroSettings:
    """What of a resolved DeepSpeed configuration decides bytes."""

    stage: int
    weight_bytes: int
    """Of one element in use: 2 under bf16, else 4"""
    rules: GatherRules
    reduce_bucket: int
    """Elements of gradients that are reduced together"""
    sub_group: int
    """Elements that one update takes together"""
    overlaps: bool
    """Collectives run beside computation"""
    num_copying_ranks: int
    """hpZ: ranks that keep the weights between them once more; 1 without"""
    parameters_on_cpu: bool
    optimizer_on_cpu: bool

    @classmethod
    def of(cls, ds_config: Mapping[str, Any]) -> ZeroSettings:
        """Of a configuration without any `auto`."""
        zero = ds_config.get("zero_optimization", {})
        stage = zero_stage(dict(ds_config))
        overlaps = zero.get("overlap_comm")
        return cls(
            stage=stage,
            weight_bytes=2 if ds_config.get("bf16", {}).get("enabled") else _FP32,
            rules=GatherRules.of(zero),
            reduce_bucket=int(zero.get("reduce_bucket_size", 5e8)),
            sub_group=int(zero.get("sub_group_size", 1e9)),
            overlaps=stage == 3 if overlaps is None else bool(overlaps),
            num_copying_ranks=int(zero.get("zero_hpz_partition_size", 1)),
            parameters_on_cpu=zero.get("offload_param", {}).get("device", "none") != "none",
            optimizer_on_cpu=zero.get("offload_optimizer", {}).get("device", "none") != "none",
        )


@dataclass(frozen=True)
class Traffic:
    """All calls of one kind in a step of one rank."""

    kind: Kind
    what: str
    payload_bytes: int
    """The whole tensors: what comes out of gathers and goes into the others"""
    num_calls: int
    num_ranks: int
    """That take part in each"""
    waits: bool = False
    """Nothing else can be computed meanwhile"""

    @property
    def passes(self) -> int:
        """How often the payload goes around."""
        return passes_of(self.kind)

    @property
    def sent_bytes(self) -> int:
        """What a rank sends on a ring."""
        return ring_bytes(self.kind, self.payload_bytes, self.num_ranks)


@dataclass(frozen=True)
class Kept:
    """Bytes of one rank, by part."""

    weights: int
    gradients: int
    optimizer: int
    """fp32 masters and Adam's two moments"""
    masters: int
    """Of them the masters; 0 where the fp32 weights in use are the masters"""
    gathers: int
    """Weights of other ranks, gathered, at most"""
    on_cpu: int = 0
    """Of all these, what lies in the host's memory"""


def gathers_of(trace: Trace, zero: ZeroSettings, micro_batches: int) -> Gathers:
    """The gathers of a step; ZeRO-2 makes none."""
    return gathers_of_step(trace, zero.rules, micro_batches) if zero.stage == 3 else Gathers((), 0)


def traffic_of_step(
    trace: Trace, zero: ZeroSettings, gathers: Gathers, micro_batches: int, num_ranks: int
) -> list[Traffic]:
    """What DeepSpeed sends in a step; the loop's own flags come on top, below a kilobyte."""
    if num_ranks == 1:
        return []
    if zero.stage == 3:
        return [*_gathered(trace, zero, gathers, num_ranks), *_scattered(trace, zero, micro_batches, num_ranks)]
    return _reduced(trace, zero, micro_batches, num_ranks)


def kept_by_rank(trace: Trace, zero: ZeroSettings, gathers: Gathers, num_ranks: int) -> Kept:
    """What lies on a rank between and in steps, activations left out."""
    trained = [weight for weight in trace.weights if weight.trains]
    buckets = zero.reduce_bucket
    if zero.stage == 3:
        shared = [weight for weight in trace.weights if not weight.is_whole]
        share = sum(_share(weight.numel, num_ranks) for weight in shared)
        own = sum(_share(weight.numel, num_ranks) for weight in trained)
        whole = sum(trace.weights[index].numel for index in persistent_weights(trace, zero.rules))
        whole += trace.num_whole
        copies = sum(
            _share(weight.numel, num_ranks) * num_ranks // zero.num_copying_ranks
            for weight in shared
            if zero.num_copying_ranks > 1
        )
        masters_apart = zero.weight_bytes != _FP32 or zero.optimizer_on_cpu
        kept = Kept(
            weights=(share + whole + copies) * zero.weight_bytes,
            gradients=own * _FP32 + buckets * _FP32,
            optimizer=own * _FP32 * (3 if masters_apart else 2),
            masters=own * _FP32 if masters_apart else 0,
            gathers=gathers.most_alive * zero.weight_bytes,
        )
        on_cpu = (share + copies) * zero.weight_bytes if zero.parameters_on_cpu else 0
        on_cpu += kept.optimizer + own * _FP32 if zero.optimizer_on_cpu else 0
    else:
        own = sum(_partition(group, num_ranks) for group in _groups(trace))
        padded = own * num_ranks - sum(weight.numel for weight in trained)
        staging = buckets * zero.weight_bytes * (2 if zero.overlaps else 1)
        kept = Kept(
            weights=(sum(weight.numel for weight in trace.weights) + padded) * zero.weight_bytes,
            gradients=own * _FP32 + staging,
            optimizer=own * _FP32 * 3,
            masters=own * _FP32,
            gathers=0,
        )
        on_cpu = kept.optimizer + own * _FP32 if zero.optimizer_on_cpu else 0
    return Kept(kept.weights, kept.gradients, kept.optimizer, kept.masters, kept.gathers, on_cpu)


def _gathered(trace: Trace, zero: ZeroSettings, gathers: Gathers, num_ranks: int) -> list[Traffic]:
    persistent = persistent_weights(trace, zero.rules)

    def kind_of(gather: Gather) -> str:
        if gather.from_copies:
            return _COPIES
        return _SMALL if persistent.issuperset(gather.weights) else _WEIGHTS

    found = []
    for kind in (_WEIGHTS, _COPIES, _SMALL):
        wanted = [gather for gather in gathers.of_step if kind_of(gather) == kind]
        elements = sum(_aligned(trace.weights[index].numel, num_ranks) for gather in wanted for index in gather.weights)
        ranks = min(zero.num_copying_ranks, num_ranks) if kind == _COPIES else num_ranks
        if wanted:
            num_bytes = elements * zero.weight_bytes
            found.append(Traffic("all_gather", kind, num_bytes, len(wanted), ranks, waits=kind == _SMALL))
    return found


def _scattered(trace: Trace, zero: ZeroSettings, micro_batches: int, num_ranks: int) -> list[Traffic]:
    elements = sum(_aligned(weight.numel, num_ranks) for weight in trace.weights if weight.trains)
    norms = sum(ceil(sum(_share(w.numel, num_ranks) for w in group) / zero.sub_group) for group in _groups(trace))
    return [
        Traffic(
            "reduce_scatter", "gradients", micro_batches * elements * _FP32, micro_batches * _num_buckets(trace, zero), num_ranks
        ),
        Traffic("all_reduce", "gradient norms", norms * 8, norms, num_ranks, waits=True),
    ]  # fmt: skip


def _reduced(trace: Trace, zero: ZeroSettings, micro_batches: int, num_ranks: int) -> list[Traffic]:
    """ZeRO-2 of DeepSpeed 0.19.8 sums gradients by all-reduces (`use_multi_rank_bucket_allreduce`), each rank keeping its part."""
    groups = _groups(trace)
    partitions = sum(_partition(group, num_ranks) for group in groups)
    flags = len(groups) * _FP32 + (1 if zero.weight_bytes == 2 else 0)
    num_flags = len(groups) + (1 if zero.weight_bytes == 2 else 0)
    return [
        Traffic(
            "all_reduce", "gradients", micro_batches * trace.num_trained * _FP32,
            micro_batches * _num_buckets(trace, zero), num_ranks,
        ),
        Traffic("all_reduce", "gradient norms", flags, num_flags, num_ranks, waits=True),
        Traffic(
            "all_gather", "weights after the update", partitions * num_ranks * zero.weight_bytes, len(groups), num_ranks,
            waits=True,
        ),
    ]  # fmt: skip


def _num_buckets(trace: Trace, zero: ZeroSettings) -> int:
    """Buckets of one backward: a gradient that no longer fits sends off those before it."""
    count, filled = 0, 0
    for event in trace.events:
        if event.kind != "gradient":
            continue
        numel = trace.weights[event.weight].numel
        if filled and filled + numel > zero.reduce_bucket:
            count, filled = count + 1, 0
        filled += numel
    return count + (1 if filled else 0)


def _groups(trace: Trace) -> Sequence[Sequence[Weight]]:
    numbers = sorted({weight.group for weight in trace.weights if weight.group is not None})
    return [[weight for weight in trace.weights if weight.group == number] for number in numbers]


def _share(numel: int, num_ranks: int) -> int:
    return -(-numel // num_ranks)


def _aligned(numel: int, num_ranks: int) -> int:
    return _share(numel, num_ranks) * num_ranks


def _partition(group: Sequence[Weight], num_ranks: int) -> int:
    """A rank's elements of one of ZeRO-2's flat groups."""
    alignment = _ALIGNMENT * num_ranks
    return _aligned(sum(weight.numel for weight in group), alignment) // num_ranks
