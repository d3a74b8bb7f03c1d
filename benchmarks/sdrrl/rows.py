"""The rows of the table: which pairs a model learns from, by which loss, and from where it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mtllm_ds.transfer_sets.sdrrl.pairs import PairSettings, TeacherSees

WEIGHTS = {
    "q_t_a_t": 4.0, "q_en_a_en": 2.0, "q_t_a_en": 1.0, "q_en_a_t": 1.0, "code_switched": 1.0, "partially_translated": 1.0,
}  # fmt: skip
"""Of SDRRL's row. Without `completion` and `translation`, which hold text of people: that is what is measured, and the claim is
about a model's own answers."""
ON_POLICY_WEIGHTS = {"q_t_a_t": 4.0, "q_en_a_en": 1.0}
UNTOUCHED, SDRRL, REFERENCE, WITH_KL, ON_POLICY = "untouched", "sdrrl", "reference", "sdrrl_kl", "on_policy"


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """One set of pairs."""

    name: str
    weights: Mapping[str, float] = field(default_factory=lambda: dict(WEIGHTS))
    answers: Literal["own", "reference"] = "own"
    """Of text with a reference answer: the model's own, or the reference. Self-instructions have the model's own only."""
    code_switch_ratio: float = 0.2
    teacher_sees: TeacherSees = "question"
    validated: bool = False
    """Has pairs to validate on, of questions that no row trains on."""

    @property
    def settings(self) -> PairSettings:
        return PairSettings(
            weights=self.weights, code_switch_ratio=self.code_switch_ratio, teacher_sees=self.teacher_sees
        )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table."""

    name: str
    title: str
    pairs: Pairs | None = None
    """None: nothing is trained"""
    overrides: tuple[str, ...] = ()
    """Settings of the recipe"""
    start: str | None = None
    """The row whose model of the same seed it goes on from, by its own responses (on-policy)"""
    is_main: bool = False
    """Trained with every seed; the others with the first one"""

    @property
    def recipe(self) -> str:
        return "sdrrl" if self.start is None else "sdrrl_on_policy"


_OWN = Pairs(name="sdrrl")


def _without(left_out: str) -> Row:
    weights = {name: weight for name, weight in WEIGHTS.items() if name != left_out}
    return Row(
        name=f"no_{left_out}", title=f"SDRRL without {left_out}", pairs=Pairs(name=f"no_{left_out}", weights=weights)
    )


def _beside(added: str) -> Row:
    pairs = Pairs(name=f"with_{added}", weights=WEIGHTS | {added: 2.0})
    return Row(name=pairs.name, title=f"SDRRL and {added} of human text", pairs=pairs)


def _switched(ratio: float) -> Row:
    pairs = Pairs(name=f"switch_{ratio:g}", code_switch_ratio=ratio)
    return Row(name=pairs.name, title=f"SDRRL, code-switch ratio {ratio:g}", pairs=pairs)


def _second_stage(
    name: str, title: str, sees: TeacherSees, answers: Literal["own", "reference"] = "own", *overrides: str
) -> Row:
    pairs = Pairs(
        name=f"{answers}_{sees}", weights=ON_POLICY_WEIGHTS, answers=answers, teacher_sees=sees, validated=True
    )
    main = name == ON_POLICY
    return Row(name=name, title=title, pairs=pairs, overrides=overrides, start=SDRRL, is_main=main)


ROWS = (
    Row(name=UNTOUCHED, title="untouched model", is_main=True),
    Row(name=SDRRL, title="SDRRL (code-switch ratio 0.2)", pairs=_OWN, is_main=True),
    Row(name=REFERENCE, title="reference answers, translated", pairs=Pairs(name="reference", answers="reference"), is_main=True),
    Row(name=WITH_KL, title="SDRRL with token KL (0.1)", pairs=_OWN, overrides=("objective.kl_weight=0.1",), is_main=True),
    _second_stage(ON_POLICY, "SDRRL, then on-policy (teacher: SDRRL, sees own answer)", "answer"),
    *map(_without, WEIGHTS),
    _switched(0.0),
    _switched(0.5),
    *map(_beside, ("completion", "translation")),
    _second_stage("on_policy_question", "on-policy, teacher sees the English question only", "language"),
    _second_stage("on_policy_gold", "on-policy, teacher sees the reference answer", "answer", "reference"),
    _second_stage(
        "on_policy_untouched", "on-policy, teacher: untouched model, sees own answer", "answer", "own",
        "objective.frozen_self=base",
    ),
)  # fmt: skip
BY_NAME = {row.name: row for row in ROWS}


def seeds_of(row: Row, seeds: Sequence[int]) -> tuple[int, ...]:
    """Of a row's trainings; nothing is drawn for the untouched model, which counts as the first."""
    return tuple(seeds) if row.is_main and row.pairs is not None else (seeds[0],)
