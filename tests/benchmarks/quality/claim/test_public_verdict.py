"""The verdict on public models: the first comparison decides, the others are told; the words follow from interval and level."""

import pytest

from benchmarks.quality.claim.public_verdict import (
    Standing,
    clause,
    judge,
    means_section,
    standing_word,
    standings_section,
    unknown_note,
)
from benchmarks.quality.claim.verdict import LanguageGate, Rules, counting_languages, gates_section
from mtllm_ds.evaluation.answers.predictions import concatenate
from mtllm_ds.evaluation.report.statistics import Difference
from mtllm_ds.evaluation.report.tables import build_tables
from tests.evaluation.report.test_tables import part

RULES = Rules(target_gap_closed=0.8)
KNOWN = LanguageGate(None, 0.9, 454, num_pairs=300)
UNKNOWN = LanguageGate(None, 0.31, 454, num_pairs=300)


def difference(mean, p):
    return Difference(mean, mean - 0.02, mean + 0.02, p, num_items=900, num_groups=300, num_seeds=3)


AHEAD, BEHIND, UNDECIDED = difference(0.04, 0.001), difference(-0.04, 0.001), difference(0.01, 0.4)


def standing(masked, plain=UNDECIDED, rival="head"):
    return Standing(rival, masked, None if masked is None else plain, ("fra_Latn", "rus_Cyrl"))


def verdict(primary, *others, gates=None, failure=None, gap=0.7):
    return judge(
        primary, others, gates=gates or {"fra_Latn": KNOWN, "gaz_Latn": UNKNOWN}, backbone_failure=failure, gap_closed=gap,
        rules=RULES,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("primary", "status"), [(AHEAD, "confirmed"), (BEHIND, "not confirmed"), (UNDECIDED, "not confirmed")]
)
@pytest.mark.parametrize("other", [AHEAD, BEHIND, None])
def test_the_first_comparison_alone_decides(primary, status, other):
    assert verdict(standing(primary), standing(other, rival="ridge")).status == status


def test_every_other_rival_has_a_clause():
    line = verdict(standing(AHEAD), standing(BEHIND, rival="ridge"), standing(None, rival="translate-test")).line
    assert line.startswith("confirmed: +4.0 points against head on copy-masked text")
    assert "70% of the copy-masked gap closed, short of the 80% aimed at" in line
    assert "; against ridge: behind, -4.0 points, 95% -6.0 to -2.0, p = 0.0010, over 2 languages" in line
    assert line.endswith("; against translate-test: not run")


def test_plain_text_may_not_be_lost():
    assert verdict(standing(AHEAD, plain=difference(-0.02, 0.5))).status == "not confirmed"


def test_a_failed_gate_claims_nothing_of_any_rival():
    for found in (
        verdict(standing(AHEAD), standing(AHEAD, rival="ridge"), failure="too weak"),
        verdict(standing(AHEAD), standing(AHEAD, rival="ridge"), gates={"gaz_Latn": UNKNOWN}),
    ):
        assert found.status == "gate failed"
        assert found.line.endswith("nothing is claimed")
    assert "no language passes the gates of the encoder" in verdict(standing(AHEAD), gates={"gaz_Latn": UNKNOWN}).line


def test_words():
    assert [standing_word(found, 0.05) for found in (AHEAD, BEHIND, UNDECIDED)] == ["ahead", "behind", "undecided"]
    assert standing_word(difference(0.04, 0.05), 0.05) == "undecided"
    assert clause(standing(None), RULES) == "against head: not run"


def test_what_the_encoder_does_not_know_is_told_and_does_not_count():
    gates = {"fra_Latn": KNOWN, "gaz_Latn": UNKNOWN, "swe_Latn": LanguageGate(None, 1.0, 400, num_pairs=7)}
    assert counting_languages(gates, RULES) == ["fra_Latn"]
    note = unknown_note(gates, RULES)
    assert note is not None
    assert "Not known to the encoder: gaz_Latn (0.31)." in note
    assert unknown_note({"fra_Latn": KNOWN}, RULES) is None
    rows = {row[0]: row for row in gates_section(gates, RULES, "encoder").rows}
    assert rows["fra_Latn"] == ("fra_Latn", "-", "0.900", "454", "counts")
    assert rows["gaz_Latn"][-1] == "retrieval 0.31 < 0.5"
    assert rows["swe_Latn"][-1] == "7 validation pairs < 50"


def test_sections_show_every_rival_and_every_system():
    section = standings_section([standing(AHEAD), standing(None, rival="translate-test")], RULES)
    assert [row[0] for row in section.rows] == ["head", "head", "translate-test", "translate-test"]
    assert section.rows[0][2:5] == ("+4.0", "+2.0 to +6.0", "0.0010")
    assert [row[-1] for row in section.rows] == ["ahead", "undecided", "not run", "not run"]
    right = {"llm_direct": 4, "mtllm_stage2": 10, "english_originals": 16, "translate_test": 12}
    listed = [
        part(system, code, count, setting=setting)
        for system, count in right.items()
        for setting in ("plain", "copy_masked")
        for code in ("deu_Latn", "jpn_Jpan")
        if (system, code) != ("translate_test", "jpn_Jpan")
    ]
    languages = ["deu_Latn", "jpn_Jpan"]
    means = means_section(build_tables(concatenate(listed)), languages, {"llm_direct": "LLM"}, languages)
    assert means.heading == "Means over the 2 languages that count: deu_Latn, jpn_Jpan"
    none = means_section(build_tables(concatenate(listed)), languages, {}, [])
    assert none.heading.startswith("Means over all languages (none counts): ")
    assert [tuple(row) for row in means.rows] == [
        ("LLM", "0.200", "0.200", "-"),
        ("mtllm_stage2", "0.500", "0.500", "50%"),
        ("english_originals", "0.800", "0.800", "-"),
    ]
