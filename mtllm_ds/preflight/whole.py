"""Which frozen weights every rank keeps whole under ZeRO-3 (`training.whole_frozen_gib`).

Each forward reads a few hundred rows of an encoder's and of a language model's table of the vocabulary: gathered for that, they are
what a step sends in vain. Layers of the model that trains stay shared out: where they fit a device too, ZeRO-2 is the layout.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mtllm_ds.cluster.whole import keep_whole
from mtllm_ds.cluster.zero import full_numel
from mtllm_ds.config.deepspeed import persistence_threshold, zero_stage
from mtllm_ds.config.schema import Settings
from mtllm_ds.errors import UserError
from mtllm_ds.models.build import dtype_of
from mtllm_ds.models.lm_head import OutputHead
from mtllm_ds.models.paired import layers_of
from mtllm_ds.models.readers import base_of
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.objectives.base import Objective
from mtllm_ds.teachers.frozen_self import FrozenSelf

SHARE_OF_DEVICE = 1 / 20
"""What `auto` allows of a device's memory: 4 GB of 80 hold NLLB 3.3B's encoder in bf16, or the 600M's and Llama 3's embeddings."""
SMALL = "small weights"
"""Below the persistence threshold: ZeRO-3 keeps them whole in any case, but gathers them after each update, changed or not"""
LAYERS = "layers"
"""What stays in shares: of the model that trains, with a table that nothing reads"""
_ENCODER_TABLE, _ENCODER_LAYERS, _TABLE, _HEAD = (
    "encoder's embeddings", "encoder's layers", "input embeddings", "output head",
)  # fmt: skip
_OTHERS = "other weights outside of layers"
_ORDER = _ENCODER_TABLE, _ENCODER_LAYERS, _TABLE, _HEAD, _OTHERS
_GIB = 2**30


@dataclass(frozen=True)
class Whole:
    """What every rank keeps whole."""

    bytes_by_part: Mapping[str, int]
    threshold: int = 0
    """Elements of the largest `SMALL` weight"""

    def holds(self, part: str, numel: int) -> bool:
        """Whether it holds a frozen weight of that part and size."""
        return (SMALL if numel <= self.threshold else part) in self.bytes_by_part

    def lines(self) -> Iterator[str]:
        """What to print of it."""
        if self.bytes_by_part:
            told = ", ".join(f"{part} {size(num_bytes)}" for part, num_bytes in self.bytes_by_part.items())
            yield f"whole       on every rank, never gathered (training.whole_frozen_gib): {told}"


def frozen_parts(objective: Objective) -> list[tuple[str, nn.Parameter]]:
    """Every frozen weight of an objective, with the part that it belongs to."""
    student: Any = objective.student
    is_stack, model = isinstance(student, StackedModel), student.trained_model
    heads = [part for part in objective.modules() if isinstance(part, OutputHead)]
    parts = {id(p): _HEAD for head in heads for p in head.parameters()}
    # A stack's LLM reads tokens for a teacher beside it, and those of responses.
    reads_tokens = not is_stack or bool(heads) or isinstance(getattr(objective, "teacher", None), FrozenSelf)
    parts |= dict.fromkeys(map(id, _table_of(model)), _TABLE if reads_tokens else LAYERS)
    parts |= dict.fromkeys(map(id, _layers_of(model)), LAYERS)
    if is_stack:
        encoder = student.encoder
        parts |= dict.fromkeys(map(id, encoder.parameters()), _ENCODER_LAYERS)
        parts |= dict.fromkeys(map(id, _table_of(encoder.model)), _ENCODER_TABLE)
    return [(parts.get(id(p), _OTHERS), p) for p in objective.parameters() if not p.requires_grad]


def choose_whole(
    settings: Settings, ds_config: Mapping[str, Any], frozen: Iterable[tuple[str, int]], device_bytes: int
) -> Whole:
    """What `training.whole_frozen_gib` comes to.

    Args:
        frozen: (part, elements) of every frozen weight
        device_bytes: memory of a rank's device

    Raises:
        UserError: it has no effect.
    """
    wanted, threshold = settings.training.whole_frozen_gib, persistence_threshold(ds_config)
    sizes: dict[str, int] = dict.fromkeys((*_ORDER, SMALL), 0)
    for part, numel in frozen:
        name = SMALL if numel <= threshold else part
        if name != LAYERS:
            sizes[name] += numel * dtype_of(settings).itemsize
    sizes = {part: num_bytes for part, num_bytes in sizes.items() if num_bytes}
    check_whole(settings, ds_config, sizes)
    if zero_stage(ds_config) < 3 or wanted == 0:
        return Whole({})
    left = int(device_bytes * SHARE_OF_DEVICE if wanted == "auto" else wanted * _GIB)
    chosen = {}
    for part, num_bytes in sizes.items():
        if part == SMALL or num_bytes <= left:
            chosen[part] = num_bytes
            left -= 0 if part == SMALL else num_bytes
    if not chosen and wanted != "auto":
        part, least = min(sizes.items(), key=lambda one: one[1])
        raise UserError(
            f"training.whole_frozen_gib={wanted}: has no effect: the smallest part, {part}, has {size(least)}; raise it, or set "
            "it to auto"
        )
    return Whole(chosen, threshold)


def check_whole(settings: Settings, ds_config: Mapping[str, Any], sizes: Mapping[str, int] | None = None) -> None:
    """Refuse a `training.whole_frozen_gib` that has no effect, as far as it is known what is frozen."""
    wanted, stage = settings.training.whole_frozen_gib, zero_stage(ds_config)
    if wanted == "auto" or (stage == 3 and sizes != {}):
        return
    why = f"ZeRO stage {stage} leaves all weights whole" if stage < 3 else "nothing outside of layers is frozen"
    raise UserError(f"training.whole_frozen_gib={wanted}: has no effect: {why}; set it to auto")


def only_under_stage_3(settings: Settings) -> list[str]:
    """Settings as they stand that have no effect where every rank holds all weights whole."""
    model, training = settings.model, settings.training
    found = [settings.objective.only_under_stage_3] if settings.objective.only_under_stage_3 is not None else []
    found += ["model.paired_sweep=true"] if model.paired_sweep is True else []
    return found + (
        [f"training.whole_frozen_gib={training.whole_frozen_gib:g}"] if training.whole_frozen_gib != "auto" else []
    )


def check_objective_gathers(settings: Settings, ds_config: Mapping[str, Any]) -> None:
    """Refuse what an objective says of gathers where there are none."""
    if (odd := settings.objective.only_under_stage_3) is not None and zero_stage(ds_config) < 3:
        raise UserError(
            f"{odd}: has no effect with training.deepspeed={settings.training.deepspeed}, which leaves weights whole; remove "
            "it, or choose a file of ZeRO-3"
        )


def arrange_whole(
    objective: Objective, settings: Settings, ds_config: Mapping[str, Any], device: torch.device, device_bytes: int
) -> Whole:
    """Make whole what the settings say, before an engine takes the objective; by all ranks alike, who reckon with equal memory."""
    frozen = [(part, parameter, full_numel(parameter)) for part, parameter in frozen_parts(objective)]
    whole = choose_whole(settings, ds_config, [(part, numel) for part, _, numel in frozen], device_bytes)
    chosen = [parameter for part, parameter, numel in frozen if whole.holds(part, numel)]
    if isinstance(objective.student, StackedModel):
        encoder = objective.student.encoder
        if set(map(id, encoder.parameters())) <= set(map(id, chosen)):
            encoder.stand_apart(device)
    keep_whole(objective, chosen, device, dtype_of(settings))
    return whole


def memory_of(device: torch.device, num_ranks: int) -> int:
    """Bytes that a rank may reckon with: of its accelerator or, on the CPU, its part of this machine's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // num_ranks


def size(num_bytes: float) -> str:
    """Bytes as people read them."""
    return f"{num_bytes / _GIB:,.2f} GiB" if num_bytes >= _GIB / 10 else f"{num_bytes / 2**20:,.2f} MiB"


def _table_of(model: Any) -> Iterable[nn.Parameter]:
    return model.get_input_embeddings().parameters()


def _layers_of(model: Any) -> Iterable[nn.Parameter]:
    """Weights of the layers of a model of transformers; all of its weights where it has no list of layers."""
    base = base_of(model)
    try:
        owner, name = layers_of(base)
    except LookupError:
        return base.parameters()
    return owner.get_submodule(name).parameters()
