"""Distributed training that stacks a machine-translation encoder on an English-centric LLM by self-distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtllm_ds.inference import MTLLM

__version__ = "0.1.0"
__all__ = ["MTLLM", "__version__"]


def __getattr__(name: str) -> Any:
    # Imported on first use: torch and transformers take seconds, and most modules here need neither.
    if name == "MTLLM":
        from mtllm_ds.inference import MTLLM

        return MTLLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
