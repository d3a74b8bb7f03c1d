"""The verdict: when it is reached, and how often its intervals hold the truth in simulated runs."""

import numpy as np
import pytest

from benchmarks.balanced.collect import TestLines as Lines
from benchmarks.balanced.verdict import Rules, decide, difference, gate_failures, nll_of, unequal_reading
from benchmarks.intervals import Interval

RULES = Rules()
GOOD, EQUAL = Interval(-0.3, -0.4, -0.2), Interval(0.01, -0.02, 0.04)
OTHERS = {"balanced": GOOD, "few_line_teachers": EQUAL, "extra_steps": GOOD}


def lines(per_token, *, num_lines=40, spread=0.0, seed=0, unigram=6.0):
    """Three seeds of a language whose nats per token are about `per_token`."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, 30, num_lines)
    nll = tokens[:, None] * (per_token + spread * rng.standard_normal((num_lines, 3)))
    names = np.arange(num_lines).astype(str)
    return Lines(tokens, 4 * tokens, nll, tokens[:, None] * np.full((1, 3), 0.5), unigram * tokens, names)


def test_nats_per_token_are_ratios_of_sums():
    assert nll_of(lines(4.5)) == pytest.approx([4.5] * 3)


def test_a_difference_without_noise_has_no_width():
    first, second = {"a": lines(4.0), "b": lines(3.0, seed=1)}, {"a": lines(4.2), "b": lines(3.5, seed=1)}
    found = difference(first, second, ["a", "b"], 0.05)
    assert [found.mean, found.low, found.high] == pytest.approx([-0.35] * 3)


SEED_NOISE, LINE_NOISE = (0.06, 0.0), (0.02, 1.5)
"""Standard deviation of a seed's mean difference, and of what all translations of an English line share: seeds decide, or lines"""


def simulated_run(rng, truth, noise):
    """Two students of four languages whose test lines translate the same 60 English ones."""
    of_seed, of_line = noise
    seeds, texts = of_seed * rng.standard_normal(3), of_line * rng.standard_normal(60)
    first, second = {}, {}
    for code in "abcd":
        chosen = rng.choice(60, 45, replace=False)
        tokens = rng.integers(3, 30, 45)
        gap = truth + seeds + texts[chosen][:, None] + 0.1 * rng.standard_normal((45, 3))
        zero, names = np.zeros((45, 3)), chosen.astype(str)
        first[code] = Lines(tokens, tokens, tokens[:, None] * gap, zero, tokens, names)
        second[code] = Lines(tokens, tokens, zero, zero, tokens, names)
    return first, second


@pytest.mark.parametrize("noise", [SEED_NOISE, LINE_NOISE], ids=["seeds", "lines"])
def test_intervals_hold_the_truth_as_often_as_they_say(noise):
    rng = np.random.default_rng(3)
    found = [difference(*simulated_run(rng, 0.2, noise), "abcd", 0.05) for _ in range(1000)]
    assert np.mean([own.low <= 0.2 <= own.high for own in found]) >= 0.93
    assert np.mean([own.mean for own in found]) == pytest.approx(0.2, abs=0.02)


def test_equality_is_seldom_found_where_there_is_none():
    """Students that differ by just the margin: two one-sided tests at .05 call one in twenty equal."""
    rng = np.random.default_rng(4)
    found = [difference(*simulated_run(rng, RULES.margin, (0.02, 0.0)), "abcd", 0.1) for _ in range(1000)]
    assert np.mean([-RULES.margin < own.low and own.high < RULES.margin for own in found]) <= 0.065


def test_an_interval_is_student_s_where_lines_say_all():
    """By hand: seeds alone vary, so it is a t test over three numbers."""
    base = lines(4.0)
    per_seed = np.array([-0.1, -0.3, -0.2])
    shifted = Lines(
        base.num_tokens, base.num_bytes, base.nll + base.num_tokens[:, None] * per_seed, base.nll, base.unigram, base.english
    )  # fmt: skip
    half = 4.302653 * per_seed.std(ddof=1) / np.sqrt(3)
    found = difference({"a": shifted}, {"a": base}, ["a"], 0.05)
    assert [found.mean, found.low, found.high] == pytest.approx([-0.2, -0.2 - half, -0.2 + half])


def test_one_seed_tells_no_interval():
    whole = lines(4.0)
    one = Lines(whole.num_tokens, whole.num_bytes, whole.nll[:, :1], whole.nll, whole.unigram, whole.english)
    found = difference({"a": one}, {"a": one}, ["a"], 0.05)
    assert (found.low, found.high) == (-np.inf, np.inf)


def test_a_gain_without_teachers_is_not_theirs():
    idle = {**OTHERS, "balanced": Interval(-0.01, -0.05, 0.03)}
    assert decide([], GOOD, EQUAL, OTHERS, RULES).line.startswith("confirmed: better")
    verdict = decide([], GOOD, EQUAL, idle, RULES)
    assert verdict.line.startswith("confirmed by balancing, not by teachers: better")
    assert "minus balanced -0.010 nats (-0.050 to +0.030), minus few_line_teachers" in verdict.line
    assert "minus extra_steps" in verdict.line


def test_students_that_read_more_are_not_compared():
    tokens = {"plain": np.array([100.0, 100.0]), "balanced": np.array([101.0, 102.0])}
    assert unequal_reading(tokens, RULES) == []
    tokens["taught"] = np.array([96.0, 98.0])
    assert unequal_reading(tokens, RULES) == ["balanced has read 4.6% more tokens than taught, at most 2% are fair"]


@pytest.mark.parametrize(
    ("low", "high", "status", "said"),
    [
        (GOOD, EQUAL, "confirmed", "better on low"),
        (Interval(-0.1, -0.3, 0.1), EQUAL, "not confirmed", "not better beyond chance"),
        (Interval(0.2, 0.1, 0.3), EQUAL, "not confirmed", "low-resource languages are worse"),
        (GOOD, Interval(0.04, 0.02, 0.06), "not confirmed", "high-resource languages are worse"),
        (GOOD, Interval(0.0, -0.06, 0.04), "not confirmed", "not shown to be equal"),
        (GOOD, Interval(-0.2, -0.3, -0.1), "not confirmed", "better, not equal"),
    ],
)
def test_decisions(low, high, status, said):
    verdict = decide([], low, high, OTHERS, RULES)
    assert verdict.status == status
    assert said in verdict.line


def test_nothing_is_judged_where_a_student_is_hardly_better_than_counting():
    groups = {"high": ["a"], "low": ["b"]}
    scores = {"plain": {"a": lines(4.0), "b": lines(5.2)}, "balanced": {"a": lines(4.0), "b": lines(4.9)}}
    failures = gate_failures(scores, groups, RULES)
    assert failures == [
        "plain beats the unigram model by 0.80 nats on low-resource languages, 1 is asked of every student"
    ]
    verdict = decide(failures, GOOD, EQUAL, OTHERS, RULES)
    assert verdict.status == "not judged"
    assert "plain beats the unigram model by 0.80 nats" in verdict.line
    assert decide([], GOOD, EQUAL, OTHERS, RULES, is_smoke=True).status == "not judged"


def test_one_seed_below_is_a_failure():
    weak = lines(4.0)
    weak.nll[:, 1] *= 1.4
    assert gate_failures({"plain": {"a": weak}}, {"high": ["a"]}, RULES)
