"""The settings of a run: all sections, and no contradiction between them."""

from __future__ import annotations

from pydantic import model_validator

from mtllm_ds.config.combinations import mistakes
from mtllm_ds.config.sections import Sections


class Settings(Sections):
    @model_validator(mode="after")
    def _combinations(self) -> Settings:
        for mistake in mistakes(self):
            raise ValueError(mistake)
        return self
