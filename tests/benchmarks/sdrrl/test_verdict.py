"""The verdict: confirmed only where text of people, the language of answers and English all hold, beyond chance."""

import numpy as np
import pytest

from benchmarks.sdrrl.collect import Scores, Sums
from benchmarks.sdrrl.evaluate import READINGS
from benchmarks.sdrrl.verdict import Rules, change, decide, nats, percent, points

LANGUAGES = ("spa_Latn", "epo_Latn")
NAMES = np.array([str(number) for number in range(60)])


def row(seeds=(0, 1, 2), *, target=3.0, english=2.0, faithful=0.9, no_other=0.9, noise=0.01):
    """About these nats per token, and this share of faithful answers."""
    rng = np.random.default_rng(len(seeds))
    tokens = np.random.default_rng(7).integers(10, 40, len(NAMES))

    def sums(mean):
        return Sums(NAMES, tokens, tokens[:, None] * (mean + noise * rng.standard_normal((len(NAMES), len(seeds)))))

    def share(of_answers):
        kept = np.repeat((np.arange(len(NAMES)) < of_answers * len(NAMES)).astype(float)[:, None], len(seeds), axis=1)
        return {code: Sums(NAMES, np.ones(len(NAMES)), kept) for code in (*LANGUAGES, "eng_Latn")}

    nll = {code: {reading: sums(target) for reading in READINGS} for code in LANGUAGES}
    nll["eng_Latn"] = {reading: sums(english) for reading in READINGS}
    return Scores(tuple(seeds), nll, sums(0.1), share(faithful), share(no_other), {})


UNTOUCHED = row((0,), target=3.4, english=2.0, faithful=0.4, no_other=0.8, noise=0.0)


def verdict(own, **options):
    return decide({"untouched": UNTOUCHED, "sdrrl": own}, LANGUAGES, 3, Rules(), **options)


def test_better_in_all_is_confirmed():
    found = verdict(row(english=2.01))
    assert found.status == "confirmed"
    assert "-0.400" in found.line or "-0.40" in found.line
    # both measures of fidelity, and shares in points: a sign of per cent is for relative changes
    assert "answers likeliest in the language asked: +50.0 (" in found.line
    assert "answers in no other language beyond doubt: +10.0 (" in found.line
    assert found.line.count(" points;") == 2


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"target": 3.4}, "text of people is not better told, continued"),
        ({"faithful": 0.4}, "answers are not more often likeliest in the language asked"),
        ({"english": 2.05}, "English is not shown to lose at most 2%, whole lines"),
        ({"english": 2.03, "noise": 0.3}, "English is not shown to lose at most 2%"),
    ],
)
def test_one_failure_is_told(own, said):
    found = verdict(row(**own))
    assert found.status == "not confirmed"
    assert said in found.line


def test_too_few_seeds_and_smoke_judge_nothing():
    assert verdict(row((0, 1))).line.startswith("not judged: 2 of 3 seeds")
    assert verdict(row(), is_smoke=True).status == "not judged"


def test_differences_are_those_of_the_means_and_one_seed_has_no_interval():
    found = change(row(noise=0.0, english=2.1), UNTOUCHED, LANGUAGES, Rules())
    assert found.nll["alone"].mean == pytest.approx(-0.4)
    assert found.english["alone"].mean == pytest.approx(0.05)
    assert found.fidelity.mean == pytest.approx(0.5)
    alone = change(row((0,)), UNTOUCHED, LANGUAGES, Rules())
    assert nats(alone.nll["alone"]).endswith("(one seed)")
    assert percent(found.english["alone"]).startswith("+5.0%")
    assert points(found.no_other).startswith("+10.0")


def test_rows_are_compared_seed_by_seed():
    own = row(noise=0.3)
    assert (
        own.only((2, 0)).nll["spa_Latn"]["alone"].values.tolist()
        == own.nll["spa_Latn"]["alone"].values[:, [2, 0]].tolist()
    )
    same = change(own.only((1,)), own.only((1,)), LANGUAGES, Rules())
    assert same.nll["continuation"].mean == 0
