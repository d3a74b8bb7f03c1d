"""The machines that a run is planned for: GPUs by their datasheets, and what is assumed beside them."""

from __future__ import annotations

from dataclasses import dataclass

from mtllm_ds.observe.gpus import Gpu


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The ranks that a run is planned for, and how far short of their datasheets they fall."""

    gpu: Gpu
    num_nodes: int
    gpus_per_node: int
    compute_utilisation: float = 0.5
    """Share of the datasheet's products that large matrix products reach"""
    bandwidth_utilisation: float = 0.8
    """Share of the datasheet's bandwidths, of memory and of networks, that are reached"""
    memory_headroom: float = 0.1
    """Share of the memory that is left to CUDA, NCCL and fragments"""
    slowdown: float = 1.0
    """Operators and update take so many times what this roofline allows; found from a step that was measured (`calibrate.py`)"""
    hop_seconds_within: float = 2e-6
    """A ring's step between GPUs of a node; assumed"""
    hop_seconds_between: float = 5e-6
    """A ring's step between nodes; assumed"""
    host_memory_bandwidth: float = 25e9
    """Bytes a second of a host's memory for each of its GPUs, where the update is made on the CPU; assumed"""

    @property
    def num_ranks(self) -> int:
        """One a GPU."""
        return self.num_nodes * self.gpus_per_node
