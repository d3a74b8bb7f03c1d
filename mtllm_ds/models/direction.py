"""Which way a model attends: left as it was trained, or both ways."""

from __future__ import annotations

from transformers import PreTrainedModel


def set_direction(model: PreTrainedModel, bidirectional: bool) -> None:
    """Make attention bidirectional, or leave the model as it was trained.

    The config steers the masks; the modules steer SDPA's shortcut, which turns a missing mask into a causal one.
    """
    if not bidirectional:
        return
    model.config.is_causal = False
    for module in model.modules():
        if hasattr(module, "is_causal"):
            setattr(module, "is_causal", False)  # noqa: B010 - typed as a tensor or a module otherwise
