"""Which implementation runs where."""

import importlib.util
import os

import torch

BACKENDS = ("auto", "triton", "triton-split", "triton-fused", "chunked", "reference")


def interpreting() -> bool:
    """True where Triton's interpreter runs the kernels on the CPU, as the tests do."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def triton_runs_on(device: torch.device) -> bool:
    """True where Triton is installed and can run kernels on tensors of this device."""
    if importlib.util.find_spec("triton") is None:
        return False
    return interpreting() if device.type == "cpu" else device.type == "cuda"


def check_backend(backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")


def require_triton(backend: str, device: torch.device) -> None:
    if not triton_runs_on(device):
        raise NotImplementedError(f"backend {backend!r} needs triton and a GPU; the tensors are on {device}")
