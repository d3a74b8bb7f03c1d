import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mtllm_ds.config.data import MixingSettings
from mtllm_ds.data.stream.mixing import CycleState, DrawSequence, language_shares, to_integers
from mtllm_ds.errors import UserError

CODES = ("eng_Latn", "deu_Latn", "fra_Latn", "khm_Khmr", "zul_Latn")


def index_of(blocks_by_language, block_samples=4):
    language = np.repeat(np.arange(len(blocks_by_language)), blocks_by_language)
    return language, np.full(len(language), block_samples)


weights_lists = st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=30)


@given(weights=weights_lists, cycle_draws=st.integers(1, 60), seed=st.integers(0, 2**31))
@settings(max_examples=60)
def test_after_every_cycle_shares_are_exact_within_one_draw(weights, cycle_draws, seed):
    draws = DrawSequence(to_integers(np.array(weights)), cycle_draws, seed)
    wanted = np.array(weights) / sum(weights)
    languages = draws.sources(0, 25 * cycle_draws)
    for cycle in range(1, 26):
        counts = np.bincount(languages[: cycle * cycle_draws], minlength=len(weights))
        assert (np.abs(counts - wanted * cycle * cycle_draws) < 1 + 1e-6).all()
        assert (draws.drawn_before(cycle * cycle_draws) == counts).all()


@given(start=st.integers(0, 590), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_draws_can_be_asked_in_any_order_and_gone_on_with(start, seed):
    language, samples = index_of([5, 3, 1])
    shares = language_shares(MixingSettings(), CODES[:3], language, samples, seed)
    in_order = DrawSequence(shares.weights, 3, seed)
    expected = in_order.sources(0, 600).tolist()
    backwards = DrawSequence(shares.weights, 3, seed)
    assert [backwards.sources(draw, draw + 1)[0] for draw in reversed(range(600))] == expected[::-1]
    resumed = DrawSequence(shares.weights, 3, seed)
    resumed.resume_from(in_order.state_before(start))
    assert resumed.sources(start, 600).tolist() == expected[start:]
    assert (resumed.drawn_before(start) == np.bincount(expected[:start], minlength=3)).all()


def shares_of(mixing, sizes):
    language, samples = index_of(sizes, 10)
    return language_shares(mixing, CODES[: len(sizes)], language, samples, seed=1)


def test_the_rules():
    assert shares_of(MixingSettings(), [6, 3, 1]).shares == pytest.approx([0.6, 0.3, 0.1])
    roots = np.sqrt([16, 4, 1])
    assert shares_of(MixingSettings(rule="temperature", temperature=2), [16, 4, 1]).shares == pytest.approx(
        roots / roots.sum()
    )
    explicit = MixingSettings(rule="explicit", weights={"de": 3, "eng_Latn": 1})
    assert shares_of(explicit, [5, 5, 5]).shares == pytest.approx([0.25, 0.75, 0])
    balanced = shares_of(MixingSettings(rule="balanced", samples_per_language=20), [9, 4, 2])
    assert balanced.shares == pytest.approx([1 / 3] * 3)
    assert [epoch.num_samples for epoch in balanced.epochs] == [20, 20, 20]
    uneven = shares_of(MixingSettings(rule="balanced", samples_per_language=13), [9, 4, 2])
    assert [sorted(epoch.sizes.tolist()) for epoch in uneven.epochs] == [[3, 10]] * 3


def test_unimax_is_uniform_up_to_the_cap():
    # 10, 100 and 1,000 samples, 600 to draw, at most 2 epochs: 20 (its cap), then 200 (its cap, below half of 580), the rest 380.
    mixing = MixingSettings(rule="unimax", max_epochs=2, budget_samples=600)
    assert shares_of(mixing, [1, 10, 100]).shares == pytest.approx(np.array([20, 200, 380]) / 600)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "temperature"}, "needs temperature"),
        ({"rule": "proportional", "temperature": 2.0}, "temperature: has no effect"),
        ({"rule": "explicit"}, "needs weights"),
        ({"rule": "unimax", "max_epochs": 1.0}, "needs budget_samples"),
        ({"rule": "even"}, "rule"),
        ({"rule": "temperature", "temperature": -1.0}, "temperature"),
        ({"rule": "temperature", "temperature": float("nan")}, "temperature"),
        ({"rule": "explicit", "weights": {"eng_Latn": float("inf")}}, "weights.eng_Latn"),
        ({"rule": "explicit", "weights": {"eng_Latn": -1.0}}, "weights.eng_Latn"),
        ({"cycle_draws": 0}, "cycle_draws"),
        ({"cycle_draws": 2**22 + 1}, "cycle_draws"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        MixingSettings(**options)


def test_weights_and_sub_samples_must_fit_the_data():
    with pytest.raises(UserError, match="'zul_Latn', which the data set lacks"):
        shares_of(MixingSettings(rule="explicit", weights={"zul_Latn": 1}), [1, 1])
    with pytest.raises(UserError, match="only 10 samples of 'deu_Latn'"):
        shares_of(MixingSettings(rule="balanced", samples_per_language=20), [3, 1])


def test_extreme_temperatures():
    flat = shares_of(MixingSettings(rule="temperature", temperature=1e6), [1000, 1])
    assert flat.shares == pytest.approx([0.5, 0.5], abs=1e-5)
    with pytest.raises(UserError, match="'deu_Latn' would never be drawn"):
        shares_of(MixingSettings(rule="temperature", temperature=0.01), [9, 1])
    with pytest.raises(UserError, match="'deu_Latn' would never be drawn"):
        shares_of(MixingSettings(rule="explicit", weights={"eng_Latn": 1e300, "deu_Latn": 1.0}), [9, 1])
    huge = MixingSettings(rule="explicit", weights={"eng_Latn": 1e308, "deu_Latn": 1e308})
    assert shares_of(huge, [9, 1]).shares.tolist() == [0.5, 0.5]


def test_the_longest_cycle_is_counted_without_overflow():
    longest = next(limit.le for limit in MixingSettings.model_fields["cycle_draws"].metadata if hasattr(limit, "le"))
    for weights in ([1.0], [1.0, 1e-9]):
        draws = DrawSequence(to_integers(np.array(weights)), longest, 0)
        nothing = np.zeros(len(weights), np.int64)
        state = CycleState(0, nothing, nothing)
        counts = draws.counts(state)
        assert counts.sum() == longest
        assert counts / longest == pytest.approx(np.array(weights) / sum(weights), abs=1 / longest)


@given(
    phases=st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4).filter(any), min_size=2, max_size=4),
    gaps=st.lists(st.integers(1, 9), min_size=3, max_size=3),
    cycle_draws=st.integers(1, 20),
    seed=st.integers(0, 99),
)
@settings(max_examples=80)
def test_within_each_phase_shares_are_exact_within_one_draw_after_every_cycle(phases, gaps, cycle_draws, seed):
    weights = [to_integers(np.array(own)) for own in phases]
    starts = np.cumsum([0, *gaps[: len(phases) - 1]]).tolist()
    draws = DrawSequence(weights[0], cycle_draws, seed, list(zip(starts[1:], weights[1:], strict=True)))
    for own, start, end in zip(weights, starts, [*starts[1:], starts[-1] + 9], strict=True):
        sources = draws.sources(start * cycle_draws, end * cycle_draws)
        for cycle in range(1, end - start + 1):
            counts = np.bincount(sources[: cycle * cycle_draws], minlength=4)
            assert (np.abs(counts - own / own.sum() * cycle * cycle_draws) < 1 + 1e-6).all()
    middle = (starts[-1] + 2) * cycle_draws
    resumed = DrawSequence(weights[0], cycle_draws, seed, list(zip(starts[1:], weights[1:], strict=True)))
    resumed.resume_from(draws.state_before(middle))
    assert resumed.sources(middle, middle + 50).tolist() == draws.sources(middle, middle + 50).tolist()


def test_bytes_divided_by_premiums_take_the_place_of_samples():
    """Samples of 10, 30 and 90 bytes: sizes, and what is shared, are bytes."""
    language, samples = index_of([6, 3, 1], 10)
    size = np.array([10.0, 30.0, 90.0])

    def bytes_of(mixing):
        shares = language_shares(mixing, CODES[:3], language, samples, 1, size)
        found = shares.shares * size
        return found / found.sum(), [epoch.num_samples for epoch in shares.epochs]

    roots = np.sqrt([60 * 10, 30 * 30, 10 * 90])
    shared, _ = bytes_of(MixingSettings(rule="temperature", temperature=2))
    assert shared == pytest.approx(roots / roots.sum())
    shared, _ = bytes_of(MixingSettings(rule="explicit", weights={CODES[0]: 1, CODES[1]: 1, CODES[2]: 2}))
    assert shared == pytest.approx([0.25, 0.25, 0.5])
    shared, epochs = bytes_of(MixingSettings(rule="balanced"))
    assert shared == pytest.approx([1 / 3] * 3)
    assert epochs == [60, 20, 6]  # 600 bytes each, as the smallest has


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phases": [{"from_step": 9, "rule": "balanced"}]}, "a sub-sample, which cannot change on the way"),
        ({"phases": [{"from_step": 9}, {"from_step": 5}]}, r"phases: begin at steps \[9, 5\]; put them in order"),
        ({"phases": [{"from_step": 0}]}, "greater than 0"),
        ({"phases": [{"from_step": 9}]}, "phases: that of from_step=9 has no effect"),
        ({"phases": [{"from_step": 9, "temperature": 2.0}]}, "temperature: has no effect with rule=proportional"),
        ({"byte_premiums": {"eng_Latn": 1.0}}, "byte_premiums: has no effect with rule=proportional"),
        ({"rule": "balanced", "samples_per_language": 5, "byte_premiums": {"eng_Latn": 1.0}}, "has no effect beside"),
        ({"rule": "balanced", "byte_premiums": {"eng_Latn": 0.0}}, "greater than 0"),
        ({"rule": "balanced", "byte_premiums": "no_such_file.json"}, "expected a JSON file of language code"),
    ],
)
def test_phases_and_premiums_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        MixingSettings(**options)


def test_a_table_of_premiums_becomes_part_of_the_settings(tmp_path):
    table = tmp_path / "premiums.json"
    table.write_text('{"eng_Latn": 1, "khm_Khmr": 3.9}')
    mixing = MixingSettings(rule="balanced", byte_premiums=str(table))
    assert mixing.byte_premiums == {"eng_Latn": 1.0, "khm_Khmr": 3.9}
    assert MixingSettings(**mixing.model_dump(mode="json")) == mixing
    for wrong in ("[1]", "{", '{"eng_Latn": "x"}'):
        table.write_text(wrong)
        with pytest.raises(ValidationError):
            MixingSettings(rule="balanced", byte_premiums=str(table))


def test_premiums_are_applied_to_the_bytes_of_the_manifest(dataset):
    from mtllm_ds.config.data import OrderSettings
    from mtllm_ds.data.stream.order import Order

    premiums = {"eng_Latn": 1.0, "de": 1.2, "khm_Khmr": 3.0}
    order = Order(dataset, OrderSettings(mixing=MixingSettings(rule="balanced", byte_premiums=premiums)), 0)
    counts = [dataset.statistics[code] for code in dataset.languages]
    scaled = [c["text_bytes"] / c["samples"] / p for c, p in zip(counts, (1.2, 1.0, 3.0), strict=True)]
    assert dataset.languages == ("deu_Latn", "eng_Latn", "khm_Khmr")
    assert order.shares.shares * scaled / (order.shares.shares * scaled).sum() == pytest.approx([1 / 3] * 3)
    with pytest.raises(UserError, match="byte_premiums: has none for 'khm_Khmr'"):
        Order(dataset, OrderSettings(mixing=MixingSettings(rule="balanced", byte_premiums={"en": 1.0, "de": 1.2})), 0)
