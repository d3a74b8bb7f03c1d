"""The parts of a training step, and the ranges by which a profiler tells them apart."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Part = Literal[
    "step", "data", "prepare", "encoder", "connector", "teacher", "student forward", "head", "backward", "collectives",
    "optimizer",
]  # fmt: skip
"""`step` holds all others; of parts that lie within each other, time belongs to the innermost."""
RANGE = "mtllm_ds: "
"""What the names of ranges begin with in a trace."""


def in_part(name: Part) -> AbstractContextManager[object]:
    """Around the code of a part: a range of the profiler that runs, and next to nothing where none does."""
    if not torch.autograd._profiler_enabled():
        return nullcontext()
    return torch.profiler.record_function(RANGE + name)
