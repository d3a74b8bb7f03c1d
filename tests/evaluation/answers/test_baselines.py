"""Baselines on text whose answers are known."""

import pytest

from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.answers.baselines import TfidfBaseline, majority, predict_baseline
from mtllm_ds.evaluation.items.items import Item, load_items
from mtllm_ds.evaluation.report.tables import build_tables
from tests.evaluation.items.test_tasks import load_task


def item(number, label, *segments):
    return Item(str(number), str(number), label, segments)


def test_majority_is_the_most_frequent_and_of_equals_the_first():
    assert majority([item(0, "b", ""), item(1, "a", ""), item(2, "b", "")]) == "b"
    assert majority([item(0, "b", ""), item(1, "a", "")]) == "a"


def test_tfidf_reads_characters_of_every_segment():
    train = [
        item(n, "animal" if n % 2 else "metal", "they say", f"the {'lion' if n % 2 else 'iron'} {n}") for n in range(40)
    ]
    baseline = TfidfBaseline(train)
    answers, scores = baseline([item(0, "?", "now", "lions!"), item(1, "?", "ironworks", "x"), item(2, "?", "")])
    assert answers[:2] == ["animal", "metal"]
    assert all(0.5 <= score <= 1 for score in scores)


def test_tfidf_needs_two_classes():
    with pytest.raises(UserError, match="each of 3 training items is 'a', it needs two classes"):
        TfidfBaseline([item(n, "a", f"text {n}") for n in range(3)])


def test_baselines_on_the_sample_that_ships():
    """The sample is real text: accuracies of the reference (.698 in English, .403 in German, .260 in Khmer), within noise."""
    task = load_task("lohelp_sample")
    assert len(load_items(task, "test", "khm_Khmr")) == 454
    predictions = predict_baseline("tfidf", task, ["eng_Latn", "deu_Latn", "khm_Khmr"])
    plain, masked = build_tables(predictions)
    assert plain.cells["eng_Latn"]["tfidf"].accuracy == pytest.approx(0.698, abs=0.02)
    assert plain.cells["deu_Latn"]["tfidf"].accuracy == pytest.approx(0.403, abs=0.03)
    assert plain.cells["khm_Khmr"]["tfidf"].accuracy == pytest.approx(0.260, abs=0.03)
    assert masked.cells["deu_Latn"]["tfidf"].accuracy == pytest.approx(0.355, abs=0.03)
    assert masked.cells["deu_Latn"]["english_originals_tfidf"].accuracy == pytest.approx(0.674, abs=0.03)
    assert "eng_Latn" not in masked.languages
    constant = build_tables(predict_baseline("majority", task, ["deu_Latn"]))[0]
    assert constant.cells["deu_Latn"]["majority"].accuracy == pytest.approx(100 / 454)
