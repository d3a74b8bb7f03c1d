"""Figures out of rounds: medians, intervals that hold what they say, ratios within a round."""

import csv
import json

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks.intervals import median_interval
from benchmarks.training.lengths import MAX_LENGTHS, draw_lengths
from benchmarks.training.measured import figures_of, read_rounds
from benchmarks.training.parts import OUTSIDE, PARTS
from benchmarks.training.report import loop_overhead, write_report
from benchmarks.training.rounds import WARMUP
from benchmarks.training.sizes import SIZES

NUM_ROUNDS = 20


def test_the_interval_of_a_median_covers_it_as_often_as_it_says():
    generator = np.random.default_rng(0)
    samples = generator.exponential(size=(4000, 25))
    found = [median_interval(list(sample), 0.05) for sample in samples]
    covered = np.mean([one.low <= np.log(2) <= one.high for one in found])
    exact = 1 - 2 * binom.cdf(binom.ppf(0.025, 25, 0.5) - 1, 25, 0.5)
    assert exact >= 0.95
    assert covered == pytest.approx(exact, abs=0.01)


def test_few_values_have_no_interval():
    assert median_interval([3.0, 1.0, 2.0], 0.05).mean == 2.0
    assert not np.isfinite(median_interval([3.0, 1.0, 2.0], 0.05).high)


@pytest.fixture
def folder(tmp_path):
    """Rounds of a machine that grows slower: ratios within a round stay what they are."""
    rows = [
        {"round": number, "variant": name, "seconds": (1 + number) * own, "peak_bytes": 10**9, "documents": 8,
         "encoder_tokens": 90, "llm_tokens": 80}
        for number in range(NUM_ROUNDS)
        for name, own in (("ours", 1.02), ("bare", 1.0), ("trainer", 2.04))
    ]  # fmt: skip
    with (tmp_path / "rounds.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    where = {
        "step": 2.0, "parts": {"backward": 1.2, "teacher": 0.8}, "kinds": {"products": 0.5, OUTSIDE: 1.5},
        "product_flops": 6e9, "product_rate": 1e9 * 25,
    }  # fmt: skip
    (tmp_path / PARTS).write_text(json.dumps(where))
    return tmp_path


def test_ratios_are_taken_within_a_round_and_warm_up_is_left_out(folder):
    rounds = read_rounds(folder / "rounds.csv")
    assert [row["round"] for row in rounds["ours"]] == list(range(WARMUP, NUM_ROUNDS))
    found = figures_of(rounds)
    assert found["ours"].over_ours is None
    assert found["trainer"].over_ours.low == found["trainer"].over_ours.high == pytest.approx(2.0)
    assert found["ours"].seconds.mean == pytest.approx(1.02 * np.median(range(WARMUP + 1, NUM_ROUNDS + 1)))
    assert loop_overhead(found) == pytest.approx(0.02)


def test_a_report_leaves_figures_table_and_picture(folder):
    table = write_report(SIZES["smoke"], folder, folder / "results")
    assert "+2.0%" in table
    assert "backward 60.0%" in table
    assert (
        "(the log of the step `rounds` tells why): two passes, layers gathered whole, one rank, plain PyTorch\n"
        in table
    )
    figures = json.loads((folder / "results/summary.json").read_text())
    assert figures["training/smoke/kinds/products"] == 0.25
    assert figures["training/smoke/product_share"] == pytest.approx(6 / 25 / figures["training/smoke/ours/seconds"])
    names = {path.name for path in (folder / "results").iterdir()}
    assert names == {"smoke.csv", "smoke.md", "smoke_rounds.csv", "smoke.png", "summary.json", "provenance.json"}


@pytest.mark.parametrize("kind", MAX_LENGTHS)
def test_drawn_lengths_are_those_of_the_histogram(kind):
    drawn = draw_lengths(kind, 20_000)
    assert drawn.min() >= 1
    assert drawn.max() <= MAX_LENGTHS[kind]
    assert np.corrcoef(drawn.T)[0, 1] > 0.9  # both sides read the same text
    assert (draw_lengths(kind, 20_000) == drawn).all()
