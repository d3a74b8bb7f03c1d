"""GPUs by their datasheets, and which of them a device is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

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
    device_name: str
    """Pattern of what its driver calls it; others of the family have other peaks"""


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            name="a100", memory_bytes=80 * _GIGA, bf16_flops=312 * _TERA, fp32_flops=19.5 * _TERA,
            memory_bandwidth=2039 * _GIGA, link_bandwidth=300 * _GIGA, network_bandwidth=25 * _GIGA, host_bandwidth=32 * _GIGA,
            source="NVIDIA A100 80GB SXM datasheet (NVLink 600 GB/s both ways); DGX A100: 200 Gb/s HDR a GPU, PCIe 4 x16",
            device_name=r"A100",
        ),
        Gpu(
            name="h100", memory_bytes=80 * _GIGA, bf16_flops=989.4 * _TERA, fp32_flops=67 * _TERA,
            memory_bandwidth=3350 * _GIGA, link_bandwidth=450 * _GIGA, network_bandwidth=50 * _GIGA, host_bandwidth=64 * _GIGA,
            source="NVIDIA H100 SXM datasheet (bf16 1,979 TFLOPS with sparsity, NVLink 900 GB/s both ways); DGX H100: 400 Gb/s NDR "
            "a GPU, PCIe 5 x16",
            device_name=r"H100 80GB HBM3$",
        ),
        Gpu(
            name="h200", memory_bytes=141 * _GIGA, bf16_flops=989.4 * _TERA, fp32_flops=67 * _TERA,
            memory_bandwidth=4800 * _GIGA, link_bandwidth=450 * _GIGA, network_bandwidth=50 * _GIGA, host_bandwidth=64 * _GIGA,
            source="NVIDIA H200 SXM datasheet (bf16 1,979 TFLOPS with sparsity, NVLink 900 GB/s both ways); DGX H200: 400 Gb/s NDR "
            "a GPU, PCIe 5 x16",
            device_name=r"H200$",
        ),
        Gpu(
            name="b200", memory_bytes=180 * _GIGA, bf16_flops=2250 * _TERA, fp32_flops=75 * _TERA,
            memory_bandwidth=8000 * _GIGA, link_bandwidth=900 * _GIGA, network_bandwidth=50 * _GIGA, host_bandwidth=64 * _GIGA,
            source="NVIDIA DGX B200 and HGX B200 datasheets, an eighth of each (bf16 4.5 PFLOPS with sparsity, NVLink 1.8 TB/s "
            "both ways); 400 Gb/s a GPU, PCIe 5 x16",
            device_name=r"\bB200$",
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Peak:
    """Matrix products a second that a rank's device could make at most."""

    flops: float
    source: str
    """In words"""


def peak_of(device_name: str, precision: Literal["bf16", "fp32"]) -> Peak | None:
    """The datasheet's dense products of a whole GPU; None of one that is not known here (of fp32 it counts no tf32)."""
    gpu = gpu_of(device_name)
    if gpu is None:
        return None
    flops = gpu.bf16_flops if precision == "bf16" else gpu.fp32_flops
    return Peak(flops, f"dense {precision} of {device_name}: {gpu.source}")


def gpu_of(device_name: str) -> Gpu | None:
    """The datasheet of a whole GPU by what its driver calls it; None of one that is not known here."""
    known = (gpu for gpu in GPUS.values() if re.search(gpu.device_name, device_name))
    return next(known, None) if " MIG " not in device_name else None
