"""Is a DeepSpeed configuration one that DeepSpeed takes, and reads? Known before any weight is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any

from pydantic import BaseModel, ValidationError

from mtllm_ds.errors import UserError

# What has an effect in this project. DeepSpeed itself reads some keys besides, but for optimizers, precisions, data and compression
# that the recipe sets or that nobody has tried here; a key that it does not know it leaves aside without a word.
_KNOWN = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "gradient_predivide_factor",
    "prescale_gradients",
    "communication_data_type",
    "bf16",
    "fp16",
    "data_types",
    "zero_optimization",
    "zero_force_ds_cpu_optimizer",
    "zero_allow_untested_optimizer",
    "activation_checkpointing",
    "comms_logger",
    "flops_profiler",
    "steps_per_print",
    "wall_clock_breakdown",
    "memory_breakdown",
    "dump_state",
    "disable_python_gc",
)


def check_deepspeed(config: dict[str, Any], world_size: int, where: str) -> None:
    """Refuse what DeepSpeed would ignore or fail on later; `where` names the file.

    Raises:
        UserError: an unknown key, with the nearest, a value of the wrong type, or ranks that the file cannot serve.
    """
    for key in config:
        _require_known(key, _KNOWN, "", where)
    for section, model in _sections().items():
        if section in config:
            _check_section(section, model, config[section], where)
    copies = int(config.get("zero_optimization", {}).get("zero_hpz_partition_size", 1))
    if copies < 1 or world_size % min(copies, world_size):
        raise UserError(
            f"training.deepspeed={where}: zero_optimization.zero_hpz_partition_size={copies} does not divide the "
            f"{world_size} ranks; set it to the number of ranks of a node"
        )


def _sections() -> dict[str, type[BaseModel]]:
    """DeepSpeed's own descriptions of its sections, where it has one."""
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    return {
        "zero_optimization": DeepSpeedZeroConfig,
        "bf16": DeepSpeedBF16Config,
        "fp16": DeepSpeedFP16Config,
        "comms_logger": CommsLoggerConfig,
    }


def _check_section(section: str, model: type[BaseModel], values: dict[str, Any], where: str) -> None:
    known = {field.alias or name for name, field in model.model_fields.items()}
    for key in values:
        _require_known(key, known, f"{section}.", where)
    try:
        model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([section, *(str(part) for part in first["loc"])])
        message = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        raise UserError(
            f"training.deepspeed={where}: {place}={first['input']!r}: {message[:1].lower()}{message[1:]}; give it such a value"
        ) from error


def _require_known(key: str, known: Collection[str], prefix: str, where: str) -> None:
    if key not in known:
        (nearest,) = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        raise UserError(
            f"training.deepspeed={where}: unknown key '{prefix}{key}'; nearest valid key: '{prefix}{nearest}'"
        )
