"""Statistics against scikit-learn, scipy, and bootstraps written out as loops."""

import itertools

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import accuracy_score, f1_score

from mtllm_ds.evaluation.report import statistics as st


def test_accuracy_and_macro_f1_equal_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels = rng.choice(["a", "b", "c", "d"], 40, p=[0.5, 0.3, 0.2, 0.0]).astype(object)
        answers = rng.choice(["a", "b", "c", "d"], 40).astype(object)  # d is never right
        assert st.accuracy(labels, answers) == accuracy_score(labels, answers)
        expected = f1_score(labels, answers, average="macro", labels=sorted(set(labels)), zero_division=0)
        assert st.macro_f1(labels, answers) == pytest.approx(expected)


def test_gap_closed_is_a_ratio_of_means():
    assert st.gap_closed([0.5, 0.6], [0.3, 0.5], [0.7, 0.6]) == pytest.approx(0.15 / 0.25)
    assert np.isnan(st.gap_closed([0.5], [0.3], [0.3]))


def test_english_kept():
    assert st.english_kept(0.63, 0.7) == pytest.approx(0.9)
    assert np.isnan(st.english_kept(0.5, 0.0))


def paired(num_items, num_groups, num_seeds, rng, lift=0.1):
    groups = np.array([f"g{k}" for k in rng.integers(0, num_groups, num_items)], dtype=object)
    first, second = rng.random((2, num_items, num_seeds)) < np.array([0.5 + lift, 0.5])[:, None, None]
    return st.PairedScores(groups, first.astype(float), second.astype(float))


def looped(languages, num_resamples, rng):
    """The same bootstrap, one resample after the other, from drawn lists of groups and seeds."""
    names = sorted({group for scores in languages.values() for group in scores.groups})
    num_seeds = next(iter(languages.values())).first.shape[1]
    means = []
    for _ in range(num_resamples):
        drawn = rng.integers(0, len(names), len(names))
        seeds = rng.integers(0, num_seeds, num_seeds)
        by_language = []
        for scores in languages.values():
            rows = np.concatenate([np.flatnonzero(scores.groups == names[k]) for k in drawn])
            if len(rows):
                by_language.append((scores.first - scores.second)[np.ix_(rows, seeds)].mean())
        means.append(np.mean(by_language))
    return np.array(means)


def test_bootstrap_equals_a_loop():
    rng = np.random.default_rng(1)
    languages = {"deu_Latn": paired(60, 12, 3, rng), "jpn_Jpan": paired(35, 9, 3, rng)}
    found = st.paired_bootstrap(languages, 20_000)
    means = looped(languages, 4_000, np.random.default_rng(2))
    observed = np.mean([(s.first - s.second).mean() for s in languages.values()])
    assert found.mean == pytest.approx(observed)
    assert (found.num_items, found.num_seeds) == (95, 3)
    assert [found.low, found.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.012)
    assert found.p == pytest.approx(2 * min((means <= 0).mean(), (means >= 0).mean()), abs=0.03)


def test_bootstrap_is_exact_where_all_resamples_can_be_listed():
    groups = np.array(["a", "a", "b", "c"], dtype=object)
    first, second = np.array([[1.0], [1.0], [1.0], [0.0]]), np.array([[0.0], [0.0], [1.0], [1.0]])
    members = ([1, 1], [0], [-1])
    listed = np.array(
        [np.mean(np.concatenate([members[k] for k in drawn])) for drawn in itertools.product(range(3), repeat=3)]
    )
    found = st.paired_bootstrap({"deu_Latn": st.PairedScores(groups, first, second)}, 50_000)
    assert (found.low, found.high) == (listed.min(), listed.max())
    assert found.p == pytest.approx(2 * np.mean(listed <= 0), abs=0.02)


def test_bootstrap_of_single_items_is_that_of_scipy():
    rng = np.random.default_rng(3)
    first, second = (rng.random((2, 200, 1)) < 0.6).astype(float)
    scores = st.PairedScores(np.arange(200).astype(str).astype(object), first, second)
    found = st.paired_bootstrap({"deu_Latn": scores}, 20_000)
    interval = scipy.stats.bootstrap(
        ((first - second)[:, 0],), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(4)
    ).confidence_interval
    assert [found.low, found.high] == pytest.approx([interval.low, interval.high], abs=0.006)


def test_bootstrap_is_reproducible_and_does_not_depend_on_chunks_of_one_size():
    rng = np.random.default_rng(5)
    languages = {"deu_Latn": paired(50, 10, 2, rng)}
    assert st.paired_bootstrap(languages, 1_000) == st.paired_bootstrap(languages, 1_000)
    assert st.paired_bootstrap(languages, 1_000, seed=1) != st.paired_bootstrap(languages, 1_000)


def test_related_items_widen_the_interval():
    """Ten copies of an item a group tell no more than one: resampling items would pretend they do."""
    rng = np.random.default_rng(6)
    single = (rng.random((2, 30, 1)) < np.array([0.7, 0.5])[:, None, None]).astype(float)
    copied = np.repeat(single, 10, axis=1)
    groups = np.repeat(np.arange(30), 10).astype(str).astype(object)
    by_group = st.paired_bootstrap({"x": st.PairedScores(groups, *copied)})
    by_item = st.paired_bootstrap({"x": st.PairedScores(np.arange(300).astype(str).astype(object), *copied)})
    alone = st.paired_bootstrap({"x": st.PairedScores(np.arange(30).astype(str).astype(object), *single)})
    assert by_group.high - by_group.low == pytest.approx(alone.high - alone.low, rel=0.05)
    assert by_group.high - by_group.low > 2.5 * (by_item.high - by_item.low)


def test_seeds_that_disagree_widen_the_interval():
    rng = np.random.default_rng(7)
    second = (rng.random((400, 1)) < 0.5).astype(float).repeat(3, 1)
    groups = np.arange(400).astype(str).astype(object)
    steady = np.clip(second + (rng.random((400, 1)) < 0.2), 0, 1)
    swinging = np.stack([second[:, 0], np.clip(second[:, 1] + (rng.random(400) < 0.6), 0, 1), second[:, 2]], 1)
    narrow, wide = (st.paired_bootstrap({"x": st.PairedScores(groups, s, second)}) for s in (steady, swinging))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_holm_equals_its_definition():
    rng = np.random.default_rng(8)
    for _ in range(20):
        p = {f"l{k}": float(v) for k, v in enumerate(rng.random(6) ** 3)}
        ordered = sorted(p, key=p.get)
        expected = {name: max(min(1.0, (6 - k) * p[ordered[k]]) for k in range(ordered.index(name) + 1)) for name in p}
        assert st.holm(p) == pytest.approx(expected)
    assert st.holm({"only": 0.03}) == {"only": 0.03}
    assert st.holm({}) == {}
