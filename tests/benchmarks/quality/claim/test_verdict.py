"""The verdict follows the protocol, gate by gate."""

import pytest

from benchmarks.quality.claim.verdict import (
    LanguageGate,
    Rules,
    backbone_reason,
    best_system,
    counting_languages,
    decide,
    gates_section,
)
from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.answers.predictions import concatenate
from mtllm_ds.evaluation.report.statistics import Difference
from mtllm_ds.evaluation.report.tables import build_tables
from tests.evaluation.report.test_tables import part

GOOD = LanguageGate(chrf=41.0, retrieval=0.9, num_items=454)
RULES = Rules()


def difference(mean, low, high, p):
    return Difference(mean, low, high, p, num_items=900, num_groups=300, num_seeds=3)


BETTER, SAME = difference(0.04, 0.01, 0.07, 0.004), difference(0.0, -0.02, 0.02, 0.9)


def verdict(primary=BETTER, plain=SAME, gates=None, backbone=None, gap=0.6):
    return decide(
        primary, plain, gates=gates or {"fra_Latn": GOOD}, backbone_failure=backbone, rival="beam 4", gap_closed=gap
    )


def test_confirmed():
    found = verdict()
    assert found.status == "confirmed"
    assert found.line.startswith("confirmed: +4.0 points against beam 4")
    assert "60% of the copy-masked gap closed" in found.line
    assert "short of the 50%" in verdict(gap=0.4).line


@pytest.mark.parametrize(
    "primary",
    [
        SAME,
        difference(-0.04, -0.07, -0.01, 0.004),
        difference(0.04, -0.001, 0.08, 0.06),
        difference(0.04, 0.0, 0.08, 0.05),
    ],
)
def test_not_confirmed_without_a_difference_beyond_chance(primary):
    assert verdict(primary).status == "not confirmed"


def test_a_rival_that_wins_is_named():
    found = verdict(difference(-0.04, -0.07, -0.01, 0.004))
    assert found.line.startswith("not confirmed: beam 4 is better beyond chance (-4.0 points")
    assert "beyond chance" not in verdict(difference(-0.04, -0.09, 0.01, 0.2)).line.replace(
        "not positive beyond chance", ""
    )


def test_plain_text_may_lose_one_point_but_not_more():
    assert verdict(plain=difference(-0.01, -0.03, 0.01, 0.3)).status == "confirmed"
    lost = verdict(plain=difference(-0.0101, -0.03, 0.01, 0.3))
    assert lost.status == "not confirmed"
    assert "plain text is worse" in lost.line


@pytest.mark.parametrize(
    ("gate", "reason"),
    [
        (LanguageGate(29.9, 0.9, 454), "chrF 29.9 < 30"),
        (LanguageGate(41.0, 0.49, 454), "retrieval 0.49 < 0.5"),
        (LanguageGate(41.0, float("nan"), 454), "retrieval nan < 0.5"),
        (LanguageGate(41.0, 0.9, 299), "299 items < 300"),
        (LanguageGate(41.0, 0.9, 454, proxied=True), "another language's tag"),
        (LanguageGate(41.0, 0.9, 454, development=True), "choose between variants"),
    ],
)
def test_a_language_counts_only_behind_every_gate(gate, reason):
    assert counting_languages({"fra_Latn": GOOD, "swe_Latn": gate}, RULES) == ["fra_Latn"]
    assert any(reason in found for found in gate.reasons(RULES))
    assert (
        decide(None, None, gates={"swe_Latn": gate}, backbone_failure=None, rival="x", gap_closed=float("nan")).status
        == "gate failed"
    )


def test_thresholds_themselves_pass():
    assert LanguageGate(30.0, 0.5, 300).reasons(RULES) == []
    assert backbone_reason(0.68, 0.70, RULES) is None
    assert "more than 2 points below" in backbone_reason(0.679, 0.70, RULES)


def test_a_weak_backbone_fails_the_gate_whatever_was_measured():
    found = verdict(backbone=backbone_reason(0.5, 0.7, RULES))
    assert found.status == "gate failed"
    assert "0.500" in found.line


def test_gates_are_shown_with_the_reasons():
    section = gates_section({"fra_Latn": GOOD, "khm_Khmr": LanguageGate(20.0, 0.9, 454)}, RULES)
    assert section.rows[0] == ("fra_Latn", "41.0", "0.900", "454", "counts")
    assert section.rows[1][-1] == "chrF 20.0 < 30"


def test_best_system():
    right = {("ridge", "deu_Latn"): 9, ("ridge", "jpn_Jpan"): 8, ("translate_test", "deu_Latn"): 8,
             ("translate_test", "jpn_Jpan"): 10, ("translate_test", "tar_Latn"): 20}  # fmt: skip
    plain = build_tables(concatenate(part(*where, count) for where, count in right.items()))[0]
    assert best_system(plain, ["ridge", "translate_test"], ["deu_Latn"]) == "ridge"
    assert best_system(plain, ["ridge", "translate_test"], ["deu_Latn", "jpn_Jpan"]) == "translate_test"
    with pytest.raises(UserError, match="add their predictions"):
        best_system(plain, ["ridge"], ["tar_Latn"])
