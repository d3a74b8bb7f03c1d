"""What learns from labels in the quality benchmark, each with its name in tables."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Learner:
    """What learns from labels: its reader, its shards, its objective; `answers` is its name in tables."""

    name: str
    reader: str
    shards: str
    answers: str
    objective: str = "task_tuning"

    @property
    def is_stacked(self) -> bool:
        return self.reader == "stacked"


TEACHER = Learner("teacher", "llm", "task", "llm_direct")
ROUND_TRIP = Learner("round_trip", "llm", "round_trip", "translate_test_tuned")
STAGE2 = Learner("stage2", "stacked", "task", "mtllm_stage2", "task_distillation")
RIVALS = (
    Learner("direct", "stacked", "task", "mtllm_direct"),
    Learner("mt_encoder", "encoder", "task", "mt_encoder"),
    Learner("translate_train", "llm", "translate_train", "translate_train"),
)
"""Beside the verdict: it does not need them."""
LEARNERS = (TEACHER, ROUND_TRIP, STAGE2, *RIVALS)
