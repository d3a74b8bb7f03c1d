"""Figures of greedy answers: an answer that loops is in no language, whichever measure is asked."""

import pytest

from benchmarks.sdrrl.evaluate import figures_of
from mtllm_ds.transfer_sets.sdrrl.filters import LanguageCheck

SPANISH = "Elija la carpeta donde se guardan las copias de seguridad de los documentos."
ENGLISH = "Choose the folder where backup copies of the documents are stored automatically."
LOOP = "la carpeta de los documentos " * 6


def test_loops_count_in_neither_measure_of_fidelity():
    texts = [SPANISH, ENGLISH, LOOP, "", "la la la la la la"]
    check = LanguageCheck()
    assert check.is_likeliest(LOOP, "spa_Latn")  # but for its rounds it would count
    rows = [
        {"id": str(place), "language": "spa_Latn", "answer": text, "teacher": SPANISH}
        for place, text in enumerate(texts)
    ]
    found = figures_of(rows, check)["spa_Latn"]
    assert found["faithful"] == found["no_other"] == [1, 0, 0, 0, 0]
    assert found["figures"]["loops"] == pytest.approx(2 / 5)
