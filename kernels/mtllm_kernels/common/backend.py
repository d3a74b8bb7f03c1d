"""Which implementation runs where."""

import importlib.util
import os

import torch


def interpreting() -> bool:
    """True where Triton's interpreter runs the kernels on the CPU, as the tests do."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def triton_runs_on(device: torch.device) -> bool:
    """True where Triton is installed and can run kernels on tensors of this device."""
    if importlib.util.find_spec("triton") is None:
        return False
    return interpreting() if device.type == "cpu" else device.type == "cuda"


def takes_triton(backend: str, device: torch.device) -> bool:
    """Whether a backend other than "reference" means Triton here: "auto" does where Triton runs on a GPU.

    Raises NotImplementedError where it means Triton and that cannot run.
    """
    if backend == "auto":
        return device.type == "cuda" and triton_runs_on(device)
    if backend == "chunked":
        return False
    if not triton_runs_on(device):
        raise NotImplementedError(f"backend {backend!r} needs triton and a GPU; the tensors are on {device}")
    return True
