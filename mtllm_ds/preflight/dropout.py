"""How dropout falls: once a forward, seeded by (seed, step, lanes of the forward). What changes that is told in one line."""

from __future__ import annotations

from mtllm_ds.config.schema import Sections, Settings
from mtllm_ds.data.stream.schedule import cells_in_forward


def has_dropout(settings: Settings) -> bool:
    """Whether training draws any dropout: base models keep none of their own."""
    has_lora = settings.model.trainable == "lora"
    return (has_lora and settings.model.lora.dropout > 0) or settings.objective.draws_dropout


def split_forwards(settings: Settings, world_size: int) -> list[str]:
    """Said where so many ranks leave each forward fewer cells than on fewer ranks, and so with other draws."""
    data = settings.data
    found = cells_in_forward(data.lanes, data.cells_per_forward, world_size)
    if not has_dropout(settings) or found == cells_in_forward(data.lanes, data.cells_per_forward, 1):
        return []
    return [
        f"data.cells_per_forward={data.cells_per_forward}: on {world_size} ranks a forward has only {found} of the "
        f"{data.lanes} cells, so dropout falls differently than on fewer ranks, and losses differ; "
        f"set it to {found} for the same on up to {world_size}"
    ]


def regrouped(settings: Settings, before: Sections) -> list[str]:
    """Said where a run goes on with forwards of other cells than it had `before`."""
    names = ["cells_per_forward", *(["encoder_buckets"] if settings.model.reader == "encoder" else [])]
    return [
        f"--resume: data.{name}={getattr(settings.data, name)}, but the run had {getattr(before.data, name)}: from here on dropout "
        "falls differently than it would have, and losses differ; put it back to prevent that"
        for name in names
        if has_dropout(settings) and getattr(settings.data, name) != getattr(before.data, name)
    ]
