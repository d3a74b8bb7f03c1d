"""The verdict: when it is reached, and a bootstrap against one that draws line by line."""

import numpy as np
import pytest

from benchmarks.balanced.collect import TestLines as Lines
from benchmarks.balanced.verdict import Interval, Rules, decide, difference, gate_failures, nll_of

RULES = Rules()
GOOD, EQUAL = Interval(-0.3, -0.4, -0.2), Interval(0.01, -0.02, 0.04)


def lines(per_token, *, num_lines=40, spread=0.0, seed=0, unigram=6.0):
    """Three seeds of a language whose nats per token are about `per_token`."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, 30, num_lines)
    nll = tokens[:, None] * (per_token + spread * rng.standard_normal((num_lines, 3)))
    return Lines(tokens, 4 * tokens, nll, tokens[:, None] * np.full((1, 3), 0.5), unigram * tokens)


def test_nats_per_token_are_ratios_of_sums():
    assert nll_of(lines(4.5)) == pytest.approx([4.5] * 3)


def test_a_difference_without_noise_has_no_width():
    first, second = {"a": lines(4.0), "b": lines(3.0, seed=1)}, {"a": lines(4.2), "b": lines(3.5, seed=1)}
    found = difference(first, second, ["a", "b"], 0.05, num_resamples=200)
    assert [found.mean, found.low, found.high] == pytest.approx([-0.35] * 3)


def test_the_bootstrap_is_the_one_that_draws_line_by_line():
    first = {"a": lines(4.0, spread=0.8, seed=2), "b": lines(3.0, spread=0.5, seed=3)}
    second = {"a": lines(4.1, spread=0.8, seed=2), "b": lines(3.0, spread=0.9, seed=3)}
    found = difference(first, second, ["a", "b"], 0.1, num_resamples=4000)
    rng = np.random.default_rng(9)
    means = []
    for _ in range(4000):
        seeds = rng.integers(0, 3, 3)
        per_language = []
        for code in ("a", "b"):
            rows = rng.integers(0, 40, 40)
            gap = (first[code].nll - second[code].nll)[rows][:, seeds].sum(0).mean()
            per_language.append(gap / first[code].num_tokens[rows].sum())
        means.append(np.mean(per_language))
    width = np.std(means)
    assert found.low == pytest.approx(np.quantile(means, 0.05), abs=width / 5)
    assert found.high == pytest.approx(np.quantile(means, 0.95), abs=width / 5)
    wanted = np.mean([nll_of(first[code]).mean() - nll_of(second[code]).mean() for code in ("a", "b")])
    assert found.mean == pytest.approx(wanted)


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
    verdict = decide([], low, high, RULES)
    assert verdict.status == status
    assert said in verdict.line


def test_nothing_is_judged_where_a_student_is_hardly_better_than_counting():
    groups = {"high": ["a"], "low": ["b"]}
    scores = {"plain": {"a": lines(4.0), "b": lines(5.2)}, "balanced": {"a": lines(4.0), "b": lines(4.9)}}
    failures = gate_failures(scores, groups, RULES)
    assert failures == ["plain beats the unigram model by 0.80 nats on low-resource languages"]
    verdict = decide(failures, GOOD, EQUAL, RULES)
    assert verdict.status == "not judged"
    assert "plain beats the unigram model by 0.80 nats" in verdict.line
    assert decide([], GOOD, EQUAL, RULES, is_smoke=True).status == "not judged"


def test_one_seed_below_is_a_failure():
    weak = lines(4.0)
    weak.nll[:, 1] *= 1.4
    assert gate_failures({"plain": {"a": weak}}, {"high": ["a"]}, RULES)
