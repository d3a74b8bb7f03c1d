"""Variants of the method that are compared on the development languages: what each changes in the recipes of both stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Variant:
    """Settings that differ from the plain method, `section.key` -> value."""

    what: str
    stage1: dict[str, Any] | None = field(default_factory=dict)
    """Changes of stage 1; None: there is no stage 1. Without changes, and with the plain steps and text, it is the plain one."""
    stage2: dict[str, Any] = field(default_factory=dict)
    stage1_share: float = 1.0
    """Of the budget's steps of stage 1."""
    stage1_shards: str = "stage1"
    """Text of stage 1: English, or `parallel`."""

    @property
    def has_own_stage1(self) -> bool:
        return bool(self.stage1) or self.stage1_share != 1.0 or self.stage1_shards != "stage1"


PLAIN = "plain"
PARALLEL = "parallel"
"""Shards of English text and of as many translations, whose English originals the LLM reads."""
CENTRING_TEXT = "{centring_text}"
CENTRED = {"model.connector.centring": "language", "model.connector.centring_text": CENTRING_TEXT}
AT_TEACHER = {"model.merge_start_lora": True, "objective.start_at_teacher": True}
VARIANTS = {
    PLAIN: Variant("linear connector, least-squares start, stage 1, frozen connector in stage 2"),
    "no_stage1": Variant(
        "stage 1 skipped; the connector, started by least squares, trains in stage 2",
        None,
        {
            "model.connector.trainable": True,
            "model.connector.init": "least_squares",
            "model.connector.match_scale": True,
        },
    ),
    "half_stage1": Variant("half the steps of stage 1", stage1_share=0.5),
    "long_at_teacher": Variant(
        "at_teacher after one and a half times the steps of stage 1", {}, AT_TEACHER, stage1_share=1.5
    ),
    "parallel_at_teacher": Variant(
        "at_teacher after a stage 1 of one and a half times the steps, half of it on the MT model's parallel text: the student "
        "reads a translation, the target is the LLM's vector of the English original",
        {},
        AT_TEACHER,
        stage1_share=1.5,
        stage1_shards=PARALLEL,
    ),
    "default_start": Variant(
        "connector started at random", {"model.connector.init": "default", "model.connector.match_scale": False}
    ),
    "mlp": Variant(
        "connector with a hidden layer, started at random",
        {"model.connector.type": "mlp", "model.connector.init": "default", "model.connector.match_scale": False},
        {"model.connector.type": "mlp"},
    ),
    "token_loss": Variant(
        "stage 1 also matches single words (weights 1/3 sequence, 2/3 token)",
        # The cached vectors are pooled: its teacher runs.
        {"objective.sequence_weight": 0.333, "objective.token_weight": 0.667, "data.targets": None},
    ),
    "centring": Variant(  # English, the only language of training, stays as it is: stage 1 is the plain one
        "each language's mean encoder state replaced by that of English (means of monolingual training text)",
        {},
        CENTRED,
    ),
    "unfrozen": Variant("the connector trains in stage 2 too", {}, {"model.connector.trainable": True}),
    "merged": Variant("stage-1 LoRA merged, a fresh one in stage 2", {}, {"model.merge_start_lora": True}),
    "at_teacher": Variant(
        "stage-1 LoRA merged, that of stage 2 starts as the teacher's",
        {},
        AT_TEACHER,
    ),
    "at_teacher_centring": Variant("at_teacher and centring together", {}, CENTRED | AT_TEACHER),
    "logits": Variant(
        "stage 2 matches the teacher's answers (KL) instead of its vectors", {}, {"objective.match": "logits"}
    ),
}
