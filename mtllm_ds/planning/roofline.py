"""How long a step takes at best: every operator and every collective at the pace of its narrowest resource."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2

from mtllm_ds.planning.hardware import Machine
from mtllm_ds.planning.trace import Trace
from mtllm_ds.planning.zero import Kept, Traffic, ZeroSettings

_UPDATE_TRAFFIC = 30 / 12
"""AdamW's bytes read and written for each byte of master and moments: 16 in, 14 out of 12"""


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of one step on one rank."""

    compute: float
    """All matrix products"""
    memory: float
    """All bytes that operators read and write"""
    device: float
    """Operator by operator, the slower of the two; and the update"""
    within: float
    """Collectives, over the links of a node"""
    between: float
    """Collectives, over the network"""
    latency: float
    """Collectives, hop by hop"""
    host: float
    """To and from the host's memory, and an update made there"""
    step: float
    bottleneck: str


def time_of_step(
    trace: Trace, zero: ZeroSettings, traffic: Sequence[Traffic], kept: Kept, micro_batches: int, machine: Machine
) -> StepTime:
    """Collectives that can run beside computation do so where `overlap_comm` says; those after the update wait for it."""
    bandwidth = machine.gpu.memory_bandwidth * machine.bandwidth_utilisation
    flops = (machine.gpu.bf16_flops if zero.weight_bytes == 2 else machine.gpu.fp32_flops) * machine.compute_utilisation
    flops, bandwidth = flops / machine.slowdown, bandwidth / machine.slowdown
    times = [(operation.flops / flops, operation.traffic_bytes / bandwidth) for operation in trace.operations]
    compute, memory = (micro_batches * sum(column) for column in zip(*times, strict=True))
    update = 0.0 if zero.optimizer_on_cpu else kept.optimizer * _UPDATE_TRAFFIC / bandwidth
    device = micro_batches * sum(max(pair) for pair in times)
    host = _host_seconds(zero, traffic, kept, machine)
    network = {one: _network_seconds(one, machine) for one in traffic}
    beside = sum(max(within, between) + hops for one, (within, between, hops) in network.items() if not one.waits)
    after = sum(max(within, between) + hops for one, (within, between, hops) in network.items() if one.waits)
    own = max(device, beside, host) if zero.overlaps else device + beside + host
    within, between, latency = (sum(column) for column in zip(*network.values(), strict=True)) if network else (0, 0, 0)
    products_first = sum(pair[0] for pair in times if pair[0] >= pair[1]) * micro_batches
    shares = {
        "compute": products_first,
        "memory": device - products_first + update,
        "links within nodes": within,
        "network between nodes": between,
        "latency of collectives": latency,
        "host memory": host,
    }
    if zero.overlaps:  # computation and collectives run beside each other: the longer of the two decides
        groups = (
            ("compute", "memory"),
            ("links within nodes", "network between nodes", "latency of collectives"),
            ("host memory",),
        )
        slowest = max(groups, key=lambda names: sum(shares[name] for name in names))
        shares = {name: shares[name] for name in slowest}
    return StepTime(
        compute=compute, memory=memory, device=device + update, within=within, between=between, latency=latency, host=host,
        step=own + after + update, bottleneck=max(shares, key=lambda name: shares[name]),
    )  # fmt: skip


def crossing_bytes(traffic: Traffic, machine: Machine) -> float:
    """Of what is sent, the part of one GPU's network card: every node takes in what the others hold, by all its cards alike."""
    per_node = min(machine.gpus_per_node, traffic.num_ranks)
    nodes = ceil(traffic.num_ranks / per_node)
    return traffic.passes * traffic.payload_bytes * (nodes - 1) / nodes / per_node


def _network_seconds(traffic: Traffic, machine: Machine) -> tuple[float, float, float]:
    """(links, network, hops) of all calls of a kind."""
    per_node = min(machine.gpus_per_node, traffic.num_ranks)
    nodes = ceil(traffic.num_ranks / per_node)
    passes, utilisation = traffic.passes, machine.bandwidth_utilisation
    within = traffic.sent_bytes / (machine.gpu.link_bandwidth * utilisation) if per_node > 1 else 0.0
    between = crossing_bytes(traffic, machine) / (machine.gpu.network_bandwidth * utilisation)
    if traffic.kind == "all_reduce":  # in trees
        hops = passes * (ceil(log2(nodes)) * machine.hop_seconds_between + (per_node - 1) * machine.hop_seconds_within)
    else:
        hops = (nodes - 1) * machine.hop_seconds_between + nodes * (per_node - 1) * machine.hop_seconds_within
    return within, between, traffic.num_calls * hops


def _host_seconds(zero: ZeroSettings, traffic: Sequence[Traffic], kept: Kept, machine: Machine) -> float:
    link = machine.gpu.host_bandwidth * machine.bandwidth_utilisation
    seconds = 0.0
    if zero.parameters_on_cpu:  # a rank's own share goes to the device for each gather
        seconds += sum(one.payload_bytes / one.num_ranks for one in traffic if one.kind == "all_gather") / link
    if zero.optimizer_on_cpu:
        elements = kept.masters / 4
        seconds += elements * (4 + zero.weight_bytes) / link
        seconds += kept.optimizer * _UPDATE_TRAFFIC / machine.host_memory_bandwidth
    return seconds
