"""Figures of written answers, against counts by hand and the libraries themselves."""

import numpy as np
import pytest
import sacrebleu

from mtllm_ds.evaluation.generation.texts import answer_figures, distinct_ngrams, language_fidelity, similarity
from mtllm_ds.transfer_sets.sdrrl.filters import LanguageCheck

ENGLISH = "Choose the command from the menu to print the whole document on your printer."
GERMAN = "Wählen Sie im Menü den Befehl, um das ganze Dokument auf Ihrem Drucker zu drucken."
LOOP = "It is good to print. " * 8


@pytest.fixture(scope="module")
def check():
    return LanguageCheck()


def test_fidelity_counts_answers_in_the_language_that_was_asked(check):
    answers = [ENGLISH, GERMAN, "", ENGLISH]
    assert language_fidelity(answers, "eng_Latn", check) == 0.5
    assert language_fidelity(answers, "deu_Latn", check) == 0.25


def test_distinct_ngrams_by_hand():
    assert distinct_ngrams(["a b a b", "c d"], 1) == pytest.approx((2 / 4 + 2 / 2) / 2)
    assert distinct_ngrams(["a b a b", "c d"], 2) == pytest.approx((2 / 3 + 1) / 2)
    assert distinct_ngrams(["", "a"], 2) == 1.0


def test_similarity_is_the_cosine_of_pairs_and_of_the_others():
    answers, teacher = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [3.0, 3.0]])
    root = np.sqrt(0.5)
    found = similarity(answers, teacher)
    assert found["cosine"] == pytest.approx((1 + root) / 2)
    assert found["cosine_of_others"] == pytest.approx((root + 0) / 2)
    assert similarity(answers[:1], teacher[:1]) == {"cosine": pytest.approx(1.0)}


def test_all_figures(check):
    vectors = np.eye(3)
    found = answer_figures(
        [ENGLISH, LOOP, ""], [ENGLISH] * 3, "eng_Latn", check, {"answers": vectors, "teacher": vectors}
    )
    assert found["loops"] == found["empty"] == pytest.approx(1 / 3)
    assert found["fidelity"] == pytest.approx(2 / 3)
    assert found["words"] == pytest.approx((14 + 40) / 3)
    assert found["words_of_teacher"] == 14
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf([ENGLISH, LOOP, ""], [[ENGLISH] * 3]).score)
    assert found["distinct_3"] < 1
    assert found["cosine"] == 1.0


def test_what_cannot_be_said_is_left_out(check):
    found = answer_figures([ENGLISH, GERMAN], [None, None], "khk_Cyrl", None, None)
    assert "fidelity" not in found
    assert "chrf" not in found
    assert "cosine" not in found
    assert "fidelity" not in answer_figures([ENGLISH], [None], "dyu_Latn", check, None)
    partly = answer_figures([ENGLISH, "x"], [ENGLISH, None], "eng_Latn", check, None)
    assert partly["chrf"] == pytest.approx(100)
