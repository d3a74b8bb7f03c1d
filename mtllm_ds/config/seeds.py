"""One command, several seeds: the settings of each seed's own run."""

from __future__ import annotations

from typing import Any

from mtllm_ds.config.load import parse_settings
from mtllm_ds.config.schema import Settings

_PLACEHOLDER = "{seed}"


def seed_runs(settings: Settings) -> list[Settings]:
    """Settings of each run that `run.seeds` asks for (one without it), `{seed}` in names replaced."""
    if settings.run.seeds is None:
        return [_with_seed(settings, settings.run.seed, settings.run.output_dir)]
    return [_with_seed(settings, seed, f"{settings.run.output_dir}/seed-{seed}") for seed in settings.run.seeds]


def _with_seed(settings: Settings, seed: int, output_dir: str) -> Settings:
    values = _filled(settings.model_dump(mode="json"), str(seed))
    values["run"] |= {"seed": seed, "seeds": None, "output_dir": output_dir}
    return parse_settings(values, where=f"seed {seed}")


def _filled(values: Any, seed: str) -> Any:
    if isinstance(values, dict):
        return {name: _filled(value, seed) for name, value in values.items()}
    if isinstance(values, list):
        return [_filled(value, seed) for value in values]
    return values.replace(_PLACEHOLDER, seed) if isinstance(values, str) else values
