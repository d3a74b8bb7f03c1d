"""GPUs by their datasheets, and what is assumed beside them."""

from __future__ import annotations

from dataclasses import dataclass

_GIGA, _TERA = 10**9, 10**12


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU of a server of eight, its fabric and its network card; a direction counts once."""

    name: str
    memory_bytes: int
    bf16_flops: float
    """Dense products a second, with fp32 sums"""
    fp32_flops: float
    memory_bandwidth: float
    """Bytes a second"""
    link_bandwidth: float
    """Bytes a second to the other GPUs of a node, one direction"""
    network_bandwidth: float
    """Bytes a second to other nodes, one direction: one card a GPU"""
    host_bandwidth: float
    """Bytes a second to the host's memory, one direction"""
    source: str


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            name="a100", memory_bytes=80 * _GIGA, bf16_flops=312 * _TERA, fp32_flops=19.5 * _TERA,
            memory_bandwidth=2039 * _GIGA, link_bandwidth=300 * _GIGA, network_bandwidth=25 * _GIGA, host_bandwidth=32 * _GIGA,
            source="NVIDIA A100 80GB SXM datasheet (NVLink 600 GB/s both ways); DGX A100: 200 Gb/s HDR a GPU, PCIe 4 x16",
        ),
        Gpu(
            name="h100", memory_bytes=80 * _GIGA, bf16_flops=989.4 * _TERA, fp32_flops=67 * _TERA,
            memory_bandwidth=3350 * _GIGA, link_bandwidth=450 * _GIGA, network_bandwidth=50 * _GIGA, host_bandwidth=64 * _GIGA,
            source="NVIDIA H100 SXM datasheet (bf16 1,979 TFLOPS with sparsity, NVLink 900 GB/s both ways); DGX H100: 400 Gb/s NDR "
            "a GPU, PCIe 5 x16",
        ),
        Gpu(
            name="h200", memory_bytes=141 * _GIGA, bf16_flops=989.4 * _TERA, fp32_flops=67 * _TERA,
            memory_bandwidth=4800 * _GIGA, link_bandwidth=450 * _GIGA, network_bandwidth=50 * _GIGA, host_bandwidth=64 * _GIGA,
            source="NVIDIA H200 SXM datasheet (bf16 1,979 TFLOPS with sparsity, NVLink 900 GB/s both ways); DGX H200: 400 Gb/s NDR "
            "a GPU, PCIe 5 x16",
        ),
        Gpu(
            name="b200", memory_bytes=180 * _GIGA, bf16_flops=2250 * _TERA, fp32_flops=75 * _TERA,
            memory_bandwidth=8000 * _GIGA, link_bandwidth=900 * _GIGA, network_bandwidth=50 * _GIGA, host_bandwidth=64 * _GIGA,
            source="NVIDIA DGX B200 and HGX B200 datasheets, an eighth of each (bf16 4.5 PFLOPS with sparsity, NVLink 1.8 TB/s "
            "both ways); 400 Gb/s a GPU, PCIe 5 x16",
        ),
    )
}  # fmt: skip


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
    hop_seconds_within: float = 2e-6
    """A ring's step between GPUs of a node; assumed"""
    hop_seconds_between: float = 5e-6
    """A ring's step between nodes; assumed"""
    host_memory_bandwidth: float = 25 * _GIGA
    """Bytes a second of a host's memory for each of its GPUs, where the update is made on the CPU; assumed"""

    @property
    def num_ranks(self) -> int:
        """One a GPU."""
        return self.num_nodes * self.gpus_per_node
