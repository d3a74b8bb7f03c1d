"""Tables from predictions that were made to have known scores."""

import math

import numpy as np
import pytest

from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.answers.predictions import concatenate, predictions_of
from mtllm_ds.evaluation.items.items import Item
from mtllm_ds.evaluation.items.tasks import TaskFacts
from mtllm_ds.evaluation.report.tables import (
    build_tables,
    compare,
    compare_each,
    flat_summary,
    paired_scores,
)

FACTS = TaskFacts("colours", {"tar_Latn": "spa_Latn"})
ITEMS = [Item(f"i{n}", f"g{n // 2}", "red" if n % 2 else "blue", ("x",)) for n in range(20)]


def answers(num_right):
    return [item.label if n < num_right else "green" for n, item in enumerate(ITEMS)]


def part(system, language, num_right, seed=0, setting="plain", items=ITEMS):
    given = answers(num_right)[: len(items)]
    return predictions_of(FACTS, items, given, language=language, system=system, seed=seed, setting=setting)


@pytest.fixture(scope="module")
def predictions():
    right = {
        "llm_direct": {"eng_Latn": 16, "deu_Latn": 4, "jpn_Jpan": 2, "tar_Latn": 1},
        "ridge": {"deu_Latn": 9, "jpn_Jpan": 8},
        "translate_test": {"deu_Latn": 8, "jpn_Jpan": 10, "tar_Latn": 20},
        "english_originals": {"deu_Latn": 16, "jpn_Jpan": 16, "tar_Latn": 16},
    }
    parts = [part(s, code, n) for s, found in right.items() for code, n in found.items()]
    for seed, num_right in enumerate((12, 14)):
        parts += [part("mtllm_stage2", code, num_right, seed) for code in ("deu_Latn", "jpn_Jpan")]
        parts.append(part("mtllm_stage2", "eng_Latn", 15, seed))
    parts.append(part("ridge", "deu_Latn", 5, setting="copy_masked"))
    return concatenate(parts)


@pytest.fixture(scope="module")
def plain(predictions):
    return build_tables(predictions)[0]


def test_cells_are_means_over_seeds(plain):
    cell = plain.cells["deu_Latn"]["mtllm_stage2"]
    assert cell.accuracy == pytest.approx(13 / 20)
    assert cell.spread == pytest.approx(np.std([0.6, 0.7], ddof=1))
    assert (cell.num_items, cell.num_seeds) == (20, 2)
    assert plain.cells["deu_Latn"]["ridge"].spread == 0.0


def test_settings_and_order(predictions, plain):
    assert [table.setting for table in build_tables(predictions)] == ["plain", "copy_masked"]
    assert plain.languages == ("eng_Latn", "deu_Latn", "jpn_Jpan", "tar_Latn")
    assert plain.systems[0] == "llm_direct"


def test_means_leave_out_english_and_starred_languages(plain):
    assert plain.mean_languages == ("deu_Latn", "jpn_Jpan")
    assert plain.starred == {"tar_Latn"}
    assert plain.mean("translate_test") == pytest.approx((8 + 10) / 40)
    assert plain.mean("llm_direct") == pytest.approx((4 + 2) / 40)


def test_a_system_that_lacks_a_language_has_no_mean(predictions):
    few = concatenate([predictions, part("tfidf", "deu_Latn", 20)])
    table = build_tables(few)[0]
    assert math.isnan(table.mean("tfidf"))
    assert table.best_mean() == "mtllm_stage2"


def test_gap_and_english(plain):
    assert plain.gap_closed("mtllm_stage2") == pytest.approx((13 - 3) / (16 - 3))
    assert plain.gap_closed("llm_direct") == 0.0
    assert plain.gap_closed("english_originals") == 1.0
    assert plain.english_kept("mtllm_stage2") == pytest.approx(15 / 16)
    assert math.isnan(plain.english_kept("ridge"))


def test_the_ceiling_does_not_compete(plain):
    assert plain.best("deu_Latn") == pytest.approx(13 / 20)
    assert plain.best_mean() == "mtllm_stage2"


def test_pairing_is_by_item_whatever_the_order(predictions):
    turned = [ITEMS[k] for k in np.random.default_rng(0).permutation(len(ITEMS))]
    right = {item.id: answer for item, answer in zip(ITEMS, answers(8), strict=True)}
    other = predictions_of(FACTS, turned, [right[i.id] for i in turned], language="deu_Latn", system="turned")
    scores = paired_scores(
        concatenate([predictions.where(setting="plain"), other]), "turned", "translate_test", "deu_Latn"
    )
    assert (scores.first == scores.second).all()
    assert set(scores.groups) == {f"g{k}" for k in range(10)}


def test_comparison(predictions):
    both = ["deu_Latn", "jpn_Jpan"]
    found = compare(predictions, "mtllm_stage2", "translate_test", "plain", both, 2_000)
    assert found.mean == pytest.approx(13 / 20 - 9 / 20)
    assert (found.num_items, found.num_groups, found.num_seeds) == (40, 10, 2)
    assert found.low < found.mean < found.high
    each = compare_each(predictions, "mtllm_stage2", "translate_test", "plain", both, 2_000)
    assert each["deu_Latn"][0].mean == pytest.approx(5 / 20)
    assert all(holm >= difference.p for difference, holm in each.values())


def test_what_cannot_be_paired(predictions):
    short = part("short", "deu_Latn", 5, items=ITEMS[:10])
    with pytest.raises(UserError, match="different items of deu_Latn"):
        compare(concatenate([predictions, short]), "short", "ridge", "plain", ["deu_Latn"])
    three = concatenate([predictions, *(part("three", "deu_Latn", 5, seed) for seed in range(3))])
    with pytest.raises(UserError, match="different seeds in deu_Latn"):
        compare(three, "three", "mtllm_stage2", "plain", ["deu_Latn"])
    holes = concatenate([predictions, part("holes", "deu_Latn", 5), part("holes", "deu_Latn", 5, 1, items=ITEMS[:5])])
    with pytest.raises(UserError, match="some seed lacks some item"):
        compare(holes, "holes", "ridge", "plain", ["deu_Latn"])


def test_summary_is_flat_and_has_no_nan(predictions):
    summary = flat_summary(build_tables(predictions))
    assert summary["plain/mean/translate_test"] == pytest.approx(0.45)
    assert summary["plain/tar_Latn/translate_test"] == 1.0
    assert summary["copy_masked/deu_Latn/ridge"] == 0.25
    assert all(isinstance(value, (int, float)) and value == value for value in summary.values())
