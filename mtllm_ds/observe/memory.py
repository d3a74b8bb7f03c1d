"""The most memory that a process has held."""

from __future__ import annotations

import resource
import sys

import torch

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def take_peaks(device: torch.device) -> tuple[int, int]:
    """Bytes that tensors took at most on a GPU, and that its allocator held for them, since the last time.

    Of a rank on the CPU the largest resident set since it began, twice.
    """
    if device.type != "cuda":
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
        return resident, resident
    peaks = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    return peaks
