import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtllm_ds.data.stream.mixing import DrawSequence, LanguageShares, Mixing, _to_integers, language_shares
from mtllm_ds.data.stream.shuffling import permutation
from mtllm_ds.errors import UserError

CODES = ("eng_Latn", "deu_Latn", "fra_Latn", "khm_Khmr", "zul_Latn")


def index_of(blocks_by_language, block_samples=4):
    language = np.repeat(np.arange(len(blocks_by_language)), blocks_by_language)
    return language, np.full(len(language), block_samples)


weights_lists = st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=30)


@given(weights=weights_lists, cycle_draws=st.integers(1, 60), seed=st.integers(0, 2**31))
@settings(max_examples=60)
def test_after_every_cycle_shares_are_exact_within_one_draw(weights, cycle_draws, seed):
    shares = LanguageShares(_to_integers(np.array(weights)), [np.array([i]) for i in range(len(weights))])
    draws = DrawSequence(shares, cycle_draws, seed)
    wanted = np.array(weights) / sum(weights)
    counts = np.zeros(len(weights), int)
    for cycle in range(25):
        for draw in range(cycle * cycle_draws, (cycle + 1) * cycle_draws):
            counts[draws.block(draw)] += 1
        assert counts.sum() == (cycle + 1) * cycle_draws
        assert (np.abs(counts - wanted * (cycle + 1) * cycle_draws) < 1 + 1e-6).all()


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    cycle_draws=st.integers(1, 20),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_every_epoch_of_a_language_holds_each_block_once(sizes, cycle_draws, seed):
    language, samples = index_of(sizes)
    shares = language_shares(Mixing(), CODES[: len(sizes)], language, samples, seed)
    draws = DrawSequence(shares, cycle_draws, seed)
    seen = [draws.block(draw) for draw in range(150)]
    for position in range(len(sizes)):
        own = [block for block in seen if language[block] == position]
        for start in range(0, len(own) - sizes[position] + 1, sizes[position]):
            assert sorted(own[start : start + sizes[position]]) == np.flatnonzero(language == position).tolist()


@given(start=st.integers(0, 590), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_draws_can_be_asked_in_any_order_and_gone_on_with(start, seed):
    language, samples = index_of([5, 3, 1])
    shares = language_shares(Mixing(), CODES[:3], language, samples, seed)
    in_order = DrawSequence(shares, 3, seed)
    expected = [in_order.block(draw) for draw in range(600)]
    backwards = DrawSequence(shares, 3, seed)
    assert [backwards.block(draw) for draw in reversed(range(600))] == expected[::-1]
    resumed = DrawSequence(shares, 3, seed)
    resumed.resume_from(in_order.state_before(start))
    assert [resumed.block(draw) for draw in range(start, 600)] == expected[start:]


def shares_of(mixing, sizes):
    language, samples = index_of(sizes, 10)
    return language_shares(mixing, CODES[: len(sizes)], language, samples, seed=1)


def test_the_rules():
    assert shares_of(Mixing(), [6, 3, 1]).shares == pytest.approx([0.6, 0.3, 0.1])
    roots = np.sqrt([16, 4, 1])
    assert shares_of(Mixing(rule="temperature", temperature=2), [16, 4, 1]).shares == pytest.approx(roots / roots.sum())
    explicit = Mixing(rule="explicit", weights={"de": 3, "eng_Latn": 1})
    assert shares_of(explicit, [5, 5, 5]).shares == pytest.approx([0.25, 0.75, 0])
    balanced = shares_of(Mixing(rule="balanced", samples_per_language=20), [9, 4, 2])
    assert balanced.shares == pytest.approx([1 / 3] * 3)
    assert [len(blocks) for blocks in balanced.blocks] == [2, 2, 2]
    assert [len(b) for b in shares_of(Mixing(rule="balanced"), [9, 4, 2]).blocks] == [2, 2, 2]


def test_unimax_is_uniform_up_to_the_cap():
    # 10, 100 and 1,000 samples, 600 to draw, at most 2 epochs: 20 (its cap), then 200 (its cap, below half of 580), the rest 380.
    mixing = Mixing(rule="unimax", max_epochs=2, budget_samples=600)
    assert shares_of(mixing, [1, 10, 100]).shares == pytest.approx(np.array([20, 200, 380]) / 600)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "temperature"}, "needs mixing.temperature"),
        ({"rule": "proportional", "temperature": 2.0}, "temperature has no effect"),
        ({"rule": "explicit"}, "needs mixing.weights"),
        ({"rule": "unimax", "max_epochs": 1.0}, "needs mixing.budget_samples"),
        ({"rule": "even"}, "mixing rule 'even' is unknown"),
        ({"rule": "temperature", "temperature": -1.0}, "set it above 0"),
        ({"cycle_draws": 0}, "at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Mixing(**options)


def test_weights_and_sub_samples_must_fit_the_data():
    with pytest.raises(UserError, match="'zul_Latn', which the data set lacks"):
        shares_of(Mixing(rule="explicit", weights={"zul_Latn": 1}), [1, 1])
    with pytest.raises(UserError, match="only 10 samples of 'deu_Latn'"):
        shares_of(Mixing(rule="balanced", samples_per_language=20), [3, 1])


@given(size=st.integers(0, 200), key=st.tuples(st.integers(0, 2**62), st.integers(0, 9)))
@settings(max_examples=50)
def test_permutations_are_permutations(size, key):
    order = permutation(size, *key)
    assert sorted(order.tolist()) == list(range(size))
    assert (order == permutation(size, *key)).all()


def test_permutations_never_change():
    """Golden: a run must go on identically with every later version of this code and of numpy."""
    assert permutation(10, 1, 2, 3).tolist() == [6, 9, 1, 7, 2, 3, 0, 5, 8, 4]
    assert len({tuple(permutation(6, key).tolist()) for key in range(200)}) > 150
