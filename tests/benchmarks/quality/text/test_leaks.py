"""The leak test against pairs of texts whose overlap is known."""

import pytest

from benchmarks.quality.text.leaks import LeakTest
from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.items.items import load_items
from tests.evaluation.items.test_tasks import load_task

WORDS = [f"w{n}" for n in range(40)]
ITEM = " ".join(WORDS[:17])  # ten 8-grams


def shares(test_text, training_text):
    return [leak.share for leak in LeakTest([test_text]).leaks([training_text])]


def test_the_same_segment_whatever_its_case_and_punctuation():
    assert shares("Open the File.", "  open -- the FILE") == [1.0]
    assert shares("Open the File.", "open the file now") == []  # fewer than eight words: only as a whole


@pytest.mark.parametrize(("num_words", "expected"), [(17, [1.0]), (12, [0.5]), (11, [])])
def test_half_of_the_grams(num_words, expected):
    training = " ".join(["before", *WORDS[:num_words], "after"])
    assert shares(ITEM, training) == pytest.approx(expected)


def test_grams_count_within_one_training_text_only():
    halves = [" ".join(WORDS[:11]), " ".join(WORDS[6:17])]
    assert list(LeakTest([ITEM]).leaks(halves)) == []


def test_a_gram_that_occurs_twice_counts_once():
    repeated = " ".join(WORDS[:8] * 5)
    assert shares(ITEM, repeated) == []


def test_the_run_stops():
    with pytest.raises(UserError, match=r"train\.txt: the training text 'a' holds 100% of the test item 'A!'"):
        LeakTest(["A!"]).require_none(["b", "a"], "train.txt")
    LeakTest(["A!"]).require_none(["b"], "train.txt")


def test_what_is_left_of_the_sample_that_ships_does_not_leak():
    task = load_task("lohelp_sample")
    test = LeakTest([item.segments[0] for item in load_items(task, "test")])
    texts = [item.segments[0] for item in load_items(task, "train")]
    kept = test.leak_free(texts)
    assert len(texts) - len(kept) == len({leak.training_text for leak in test.leaks(texts)}) < 10
    test.require_none([texts[row] for row in kept], "train")
