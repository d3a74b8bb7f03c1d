"""From settings to an objective: one entry a name, so that a new method is one more line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mtllm_ds.config.schema import Settings
from mtllm_ds.models.readers import Reader
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.objectives.base import Objective
from mtllm_ds.objectives.pooled_alignment import PooledAlignment


def build_objective(settings: Settings, reader: Reader, languages: Sequence[str]) -> Objective:
    """The objective of a recipe around its reader; `languages` are those of the training set, in its order."""
    return _BUILDERS[settings.objective.name](settings, reader, languages)


def _pooled_alignment(settings: Settings, reader: Reader, languages: Sequence[str]) -> Objective:
    assert isinstance(reader, StackedModel)
    return PooledAlignment(reader, num_languages=len(languages))


_BUILDERS: dict[str, Callable[[Settings, Reader, Sequence[str]], Objective]] = {"pooled_alignment": _pooled_alignment}
