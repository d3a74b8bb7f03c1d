"""DeepSpeed's own settings file: read, every `auto` resolved by us (native DeepSpeed resolves none), checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtllm_ds.config.schema import Settings
from mtllm_ds.config.shipped import DEEPSPEED_FILES, find_file
from mtllm_ds.errors import UserError

# Keys that the recipe owns: the file may leave them out or say "auto", never contradict it.
_OWNED = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
)
PERSISTENCE_THRESHOLD = 10**5
"""DeepSpeed's own, where a file says nothing"""
# Filled in where a file says nothing: by default DeepSpeed sums gradients in bf16, and takes only its own AdamW on the CPU.
_DEFAULTED = ("data_types.grad_accum_dtype", "communication_data_type", "zero_force_ds_cpu_optimizer")

_SECTIONS = (
    "zero_optimization",
    "bf16",
    "fp16",
    "data_types",
    "activation_checkpointing",
    "comms_logger",
    "flops_profiler",
)


def resolve_deepspeed(
    settings: Settings, *, world_size: int, micro_batch_size: int, micro_batches_per_step: int
) -> dict[str, Any]:
    """The DeepSpeed configuration of a run without any `auto`.

    `micro_batch_size` is the number of samples of one forward on one rank, `micro_batches_per_step` the number of
    forwards of one optimizer step. Raises `UserError` for an unreadable file or a value that contradicts the recipe.
    """
    path = find_file(DEEPSPEED_FILES, settings.training.deepspeed, "training.deepspeed")
    config = _read(path)
    derived = _derived_values(settings, world_size, micro_batch_size, micro_batches_per_step)
    for key in ("optimizer", "scheduler"):
        if key in config:
            raise UserError(f"training.deepspeed={path}: remove '{key}'; the recipe's section optim: sets it")
    for dotted, value in derived.items():
        _fill(config, dotted, value, where=str(path))
    leftover = [name for name, value in _leaves(config) if value == "auto"]
    if leftover:
        raise UserError(f"training.deepspeed={path}: no rule resolves 'auto' of '{leftover[0]}'; give it a value")
    _check(config, settings, path)
    return config


def _read(path: Path) -> dict[str, Any]:
    """The file's sections; a section that we look into is one of keys and values."""
    where = f"training.deepspeed={path}"
    try:
        config = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_each_key_once)
    except (OSError, ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise UserError(f"{where}: not JSON ({why}); mend the file or name another") from error
    if not isinstance(config, dict):
        raise UserError(
            f'{where}: expected an object such as {{"zero_optimization": ...}}, found {_kind(config)}; name another file'
        )
    for section in _SECTIONS:
        if not isinstance(config.get(section, {}), dict):
            raise UserError(f"{where}: {section}: expected keys and values, found {_kind(config[section])}; mend it")
    return config


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Left to itself, json takes the last of two equal keys without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for position, (key, _) in enumerate(pairs) if key in dict(pairs[:position]))
        raise ValueError(f"key '{twice}' stands twice")
    return found


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")


def zero_stage(config: Mapping[str, Any]) -> int:
    """ZeRO stage of a resolved configuration."""
    return int(config.get("zero_optimization", {}).get("stage", 0))


def persistence_threshold(config: Mapping[str, Any]) -> int:
    """Elements of the largest weight that ZeRO-3 keeps whole by itself, in a resolved configuration."""
    zero = config.get("zero_optimization", {})
    return int(zero.get("stage3_param_persistence_threshold", PERSISTENCE_THRESHOLD))


def _derived_values(
    settings: Settings, world_size: int, micro_batch_size: int, micro_batches_per_step: int
) -> dict[str, Any]:
    bf16 = settings.training.precision == "bf16"
    return {
        "train_batch_size": micro_batch_size * micro_batches_per_step * world_size,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": micro_batches_per_step,
        "gradient_clipping": settings.optim.max_grad_norm,
        "bf16.enabled": bf16,
        # bf16 sums of gradients lose what a small learning rate needs: accumulate and reduce in fp32.
        "data_types.grad_accum_dtype": "fp32",
        "communication_data_type": "fp32",
        "zero_force_ds_cpu_optimizer": False,
        "activation_checkpointing.partition_activations": False,
        "zero_optimization.reduce_bucket_size": 2**26,
        "zero_optimization.stage3_prefetch_bucket_size": 2**25,
        "zero_optimization.stage3_param_persistence_threshold": PERSISTENCE_THRESHOLD,
    }


def _fill(config: dict[str, Any], dotted: str, value: Any, *, where: str) -> None:
    """Put `value` where the file says "auto", or says nothing about something that is ours to say."""
    *parents, leaf = dotted.split(".")
    ours = dotted in _OWNED
    node = config
    for part in parents:
        if part not in node and not ours and dotted not in _DEFAULTED:
            return
        node = node.setdefault(part, {})
    if node.get(leaf) == "auto" or (leaf not in node and (ours or dotted in _DEFAULTED)):
        node[leaf] = value
    elif ours and node[leaf] != value:
        raise UserError(
            f"training.deepspeed={where}: {dotted}={node[leaf]!r}, but the recipe gives {value!r}; "
            'write "auto" there and change the recipe'
        )


def _leaves(node: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(node, dict):
        return [(prefix, node)]
    return [leaf for key, child in node.items() for leaf in _leaves(child, f"{prefix}.{key}" if prefix else key)]


def _place(config: Mapping[str, Any], section: str) -> str:
    """Where an offloaded part of ZeRO lies; what is no section is refused with DeepSpeed's own words, later."""
    given = config.get("zero_optimization", {}).get(section)
    return str(given.get("device", "none")).lower() if isinstance(given, Mapping) else "none"


def _check(config: dict[str, Any], settings: Settings, path: Path) -> None:
    stage = config.get("zero_optimization", {}).get("stage", 0)
    if stage not in (2, 3):
        raise UserError(f"training.deepspeed={path}: zero_optimization.stage={stage}; this project runs stages 2 and 3")
    if config.get("fp16", {}).get("enabled", False):
        raise UserError(f"training.deepspeed={path}: fp16.enabled=true; use training.precision=bf16 or fp32")
    for section in ("offload_optimizer", "offload_param"):
        if _place(config, section) == "nvme":
            raise UserError(
                f"training.deepspeed={path}: zero_optimization.{section}.device=nvme: nothing here was tried with weights or "
                "moments on a disk, and checkpoints read and write those in memory; set it to cpu"
            )
    for name, is_on in (
        ("flops_profiler.enabled", config.get("flops_profiler", {}).get("enabled")),
        ("wall_clock_breakdown", config.get("wall_clock_breakdown")),
    ):
        if is_on:  # DeepSpeed 0.19.8: "timer is not started", in the first backward
            raise UserError(
                f"training.deepspeed={path}: {name}=true: DeepSpeed starts its timers where it finds tensors in what a forward "
                "returns, and an objective returns its own kind; remove it, and "
                "set training.flops_profiler_step or train with --profile"
            )
    _check_quantization(config, settings, path)
    bf16 = bool(config.get("bf16", {}).get("enabled", False))
    if bf16 != (settings.training.precision == "bf16"):
        raise UserError(
            f"training.deepspeed={path}: bf16.enabled={str(bf16).lower()} contradicts "
            f'training.precision={settings.training.precision}; write "auto" there'
        )


def _check_quantization(config: dict[str, Any], settings: Settings, path: Path) -> None:
    zero, llm = config.get("zero_optimization", {}), settings.model.llm
    where = f"training.deepspeed={path}: zero_optimization"
    if zero.get("zero_quantized_nontrainable_weights"):
        raise UserError(
            f"{where}.zero_quantized_nontrainable_weights=true: DeepSpeed quantises frozen weights in fp16 alone; remove it, and "
            "set model.llm.quantization=int8"
        )
    for name in ("zero_quantized_weights", "stage3_use_all_reduce_for_fetch_params"):
        if zero.get(name) and llm is not None and llm.quantization is not None:
            raise UserError(
                f"{where}.{name}=true: would read 8-bit weights as numbers, which model.llm.quantization={llm.quantization} packs; "
                "remove one of the two"
            )
