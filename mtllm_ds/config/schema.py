"""The settings of a run: all sections, and no contradiction between them."""

from __future__ import annotations

from pydantic import Field, model_validator

from mtllm_ds.config.objective import TeacherKind
from mtllm_ds.config.objectives import AnyObjective, PooledAlignment
from mtllm_ds.config.rules import mistakes
from mtllm_ds.config.section import FIXED
from mtllm_ds.config.sections import CommonSections


class Sections(CommonSections):
    """All sections of a run, each valid by itself."""

    objective: AnyObjective = Field(default=PooledAlignment(), json_schema_extra=FIXED)

    @property
    def connector_trains(self) -> bool:
        """Whether the connector is trained, its default resolved."""
        chosen = self.model.connector.trainable
        return self.objective.trains_connector if chosen is None else chosen

    @property
    def teacher_kind(self) -> TeacherKind:
        """Who gives the objective's targets."""
        if self.data.targets is not None:
            return "cached"
        return next(kind for kind in self.objective.teachers if kind != "cached")


class Settings(Sections):
    @model_validator(mode="after")
    def _combinations(self) -> Settings:
        for mistake in mistakes(self, self.objective, self.connector_trains):
            raise ValueError(mistake)
        return self
