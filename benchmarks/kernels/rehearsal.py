"""A rehearsal: REHEARSE=1 runs every script of the GPU suite at toy size on the CPU, Triton in its interpreter.

It shows that the scripts run to their end; its figures say nothing.
"""

import os

import torch


def rehearsing() -> bool:
    """True where a script is to run at toy size."""
    return os.environ.get("REHEARSE") == "1"


def device() -> str:
    """The device that scripts run on unless told otherwise."""
    return "cuda" if torch.cuda.is_available() and not rehearsing() else "cpu"


def low_precision() -> torch.dtype:
    """bfloat16, but float16 in Triton's interpreter, which multiplies bfloat16 wrongly."""
    return torch.float16 if os.environ.get("TRITON_INTERPRET") == "1" else torch.bfloat16


def environment() -> dict[str, str]:
    """Variables of a rehearsal's processes."""
    return {"REHEARSE": "1", "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
