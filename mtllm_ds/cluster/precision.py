"""The dtype that a model reads in. `auto` takes bf16 where the device multiplies it faster than fp32, and fp32 elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import torch

Precision = Literal["auto", "bf16", "fp32"]

_CPU_FLAGS = Path("/proc/cpuinfo")


def reading_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """bfloat16 or float32. With several ranks, ask on rank 0 and tell all (`from_main`): their machines may differ."""
    if precision == "auto":
        precision = "bf16" if multiplies_bf16(device) else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a device has bf16 products of its own; elsewhere they are emulated, slowly."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not _CPU_FLAGS.is_file():
        return False
    return (
        re.search(r"\b(avx512_bf16|amx_bf16)\b", _CPU_FLAGS.read_text(encoding="utf-8", errors="replace")) is not None
    )
