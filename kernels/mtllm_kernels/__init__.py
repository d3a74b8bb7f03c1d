"""Projection fused with distillation losses, for CPUs and GPUs. Needs torch; triton only where a GPU runs it."""

from mtllm_kernels.linear_kl.function import fused_linear_kl
from mtllm_kernels.topk_kl.function import fused_topk_kl

__all__ = ["fused_linear_kl", "fused_topk_kl"]
