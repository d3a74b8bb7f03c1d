"""liger-kernel's RMSNorm, RoPE and SwiGLU for the LLM, behind one setting."""

from __future__ import annotations

import importlib.util

import torch
from transformers import PreTrainedModel

from mtllm_ds.errors import UserError


def use_liger_kernels(model: PreTrainedModel, device: torch.device) -> None:
    """Replace the model's norms, rotary embedding and gated MLP by fused kernels; `UserError` where that cannot be.

    The rotary embedding is patched for all models of that family in the process (liger-kernel offers no other way).
    """
    if device.type != "cuda":
        raise UserError(
            f"model.liger=true: its kernels need a CUDA device, this rank has {device.type}; set model.liger=false"
        )
    if importlib.util.find_spec("liger_kernel") is None:
        raise UserError("model.liger=true: liger-kernel is not installed; pip install 'mtllm-ds[gpu]'")
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN, _apply_liger_kernel_to_instance

    family = model.config.model_type
    if family not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise UserError(f"model.liger=true: liger-kernel has no kernels for a {family} model; set model.liger=false")
    _apply_liger_kernel_to_instance(
        model=model,
        rope=True,
        rms_norm=True,
        swiglu=True,
        geglu=True,
        cross_entropy=False,
        fused_linear_cross_entropy=False,
    )
