"""An objective becomes a DeepSpeed engine: parameter groups, AdamW, learning rate as a function of the step."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mtllm_ds.cluster.collectives import count_deepspeed
from mtllm_ds.cluster.outside_forward import outside_forward
from mtllm_ds.cluster.parameter_groups import parameter_groups
from mtllm_ds.cluster.zero import buffers_to, forget_module, largest_master
from mtllm_ds.config.schema import Settings
from mtllm_ds.config.sections import OptimSettings
from mtllm_ds.step_parts import in_part


class Engine:
    """The little that the loop needs of DeepSpeed."""

    def __init__(self, module: nn.Module, settings: Settings, ds_config: dict[str, Any]) -> None:
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        count_deepspeed()
        self.settings = settings
        optimizer = _adamw(module, settings.optim, ds_config)
        self.deepspeed, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=ds_config)
        buffers_to(module, self.deepspeed.device)
        self.world_size = int(self.deepspeed.dp_world_size)
        self.micro_batches = int(self.deepspeed.gradient_accumulation_steps())

    def forward(self, batch: Any) -> Any:
        """The objective's forward, through the engine's hooks."""
        with in_part("student forward"):
            return self.deepspeed(batch)

    @contextmanager
    def flops_table(self, folder: Path, step: int, tell: Callable[[str], None]) -> Iterator[None]:
        """DeepSpeed's FLOPs profiler looks at the forward inside, on rank 0, and writes its table of modules into a folder.

        Of partitioned weights it counts none, and of the fused losses no product. What cannot be written is told.
        """
        if self.deepspeed.global_rank:
            yield
            return
        from deepspeed.profiling.flops_profiler import FlopsProfiler

        profiler = FlopsProfiler(self.deepspeed.module, self.deepspeed)
        profiler.start_profile()
        try:
            yield
            profiler.stop_profile()
            try:
                folder.mkdir(parents=True, exist_ok=True)
                profiler.print_model_profile(step, output_file=str(folder / f"deepspeed_flops_of_step_{step}.txt"))
            except OSError as error:
                tell(f"{folder}: the table of FLOPs cannot be written ({error}); training goes on")
        finally:
            profiler.end_profile()

    def outside_forward(self, whole: Iterable[nn.Parameter]) -> AbstractContextManager[None]:
        """Where modules may run beside the engine's forward, as `cluster.outside_forward` says."""
        return outside_forward(self.deepspeed, whole)

    def backward(self, loss_sum: torch.Tensor, count: torch.Tensor) -> None:
        """Gradient of `loss_sum / count`, where `count` is the divisor of the whole step over all ranks; none where it is 0."""
        # DeepSpeed says so itself where it finds tensors in what a forward returns; an objective returns its own kind. Unsaid, an
        # optimizer on the CPU takes what a step's first micro-batch sends before its end for the gradients of all.
        self.deepspeed.optimizer.set_gradient_accumulation_boundary(self.deepspeed.is_gradient_accumulation_boundary())
        # DeepSpeed averages over ranks and micro-batches; the loss is one mean over all of them.
        with in_part("backward"):
            self.deepspeed.backward(loss_sum / count.clamp(min=1) * (self.world_size * self.micro_batches))

    def step(self) -> None:
        """One micro-batch done; the last one of a step updates the weights."""
        with in_part("optimizer"):
            self.deepspeed.step()

    def was_step_applied(self) -> bool:
        """False when DeepSpeed silently skipped the update because the gradient norm was not finite."""
        return bool(self.deepspeed.was_step_applied())

    def grad_norm(self) -> float:
        """Global gradient norm of the last step, before clipping."""
        norm = self.deepspeed.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    def largest_weight(self) -> float:
        """Largest magnitude of this rank's share of the trainable fp32 weights; not finite if one of them is not."""
        return largest_master(self.deepspeed)

    def set_step(self, step: int) -> float:
        """Set every group's learning rate for the update that ends step `step` (from 0); returns the main one."""
        scale = schedule_scale(self.settings.optim, step, self.settings.run.max_steps)
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = group["base_lr"] * scale
        return self.settings.optim.learning_rate * scale

    def close(self) -> None:
        """Release DeepSpeed's buffers and hooks, and the module itself."""
        self.deepspeed.destroy()
        forget_module(self.deepspeed.module)


def schedule_scale(optim: OptimSettings, step: int, max_steps: int) -> float:
    """Share of the peak learning rate at update `step` (0-based): linear warm-up, then linear or cosine to zero."""
    warmup = math.ceil(optim.warmup_share * max_steps)
    if step < warmup:
        return (step + 1) / warmup
    left = (max_steps - step) / max(1, max_steps - warmup)
    return left if optim.schedule == "linear" else 0.5 * (1.0 - math.cos(math.pi * left))


def _adamw(module: nn.Module, optim: OptimSettings, ds_config: dict[str, Any]) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"lr": optim.learning_rate, "betas": optim.betas, "eps": optim.eps}
    offload = ds_config.get("zero_optimization", {}).get("offload_optimizer", {}).get("device", "none")
    # On the CPU the fused form passes over memory once; DeepSpeed's own needs a C++ compiler at every first start, minutes of it,
    # and one that is killed there leaves a lock that hangs the next.
    return torch.optim.AdamW(parameter_groups(module, optim), fused=True if offload != "none" else None, **options)
