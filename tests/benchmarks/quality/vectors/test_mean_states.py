"""Mean states: those of transformers itself, and read once where a cache is given."""

import json
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from benchmarks.quality.vectors import known_languages
from benchmarks.quality.vectors.mean_states import MeanStates
from mtllm_ds.languages import ENGLISH
from tests.fixtures.models import save_bert

TEXTS = ["a cat", "a dog and a cat", "the dog"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(save_bert(tmp_path_factory.mktemp("bert")))


def test_means_are_those_of_transformers(encoder):
    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()
    with torch.no_grad():
        wanted = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy() for text in TEXTS]
    np.testing.assert_allclose(MeanStates(encoder, 64)(TEXTS, ENGLISH), wanted, atol=1e-5)


def test_a_list_of_texts_is_read_once_for_each_language_and_dtype(encoder, tmp_path, monkeypatch):
    fresh = MeanStates(encoder, 64)(TEXTS, ENGLISH)
    means = MeanStates(encoder, 64, cache=tmp_path)
    np.testing.assert_array_equal(means(TEXTS, ENGLISH), fresh)
    again, other = (
        MeanStates(encoder, 64, cache=tmp_path),
        MeanStates(encoder, 64, dtype=torch.bfloat16, cache=tmp_path),
    )
    reads = []
    monkeypatch.setattr(MeanStates, "_read", lambda self, texts, language: reads.append(language) or np.zeros((1, 1)))
    np.testing.assert_array_equal(again(TEXTS, ENGLISH), fresh)
    assert reads == []
    again(TEXTS, "deu_Latn")
    again(TEXTS[:2], ENGLISH)
    other(TEXTS, ENGLISH)
    assert reads == ["deu_Latn", ENGLISH, ENGLISH]


def test_the_gate_tells_what_an_encoder_finds(encoder, tmp_path, monkeypatch):
    """A language whose words it cannot tell apart is not found; copies of the English are no evidence, so none of them is asked."""
    rows = [
        f'{{"text": "{" ".join(["dog"] * (n % 2 + 1))}", "text_en": "{word} cat"}}\n'
        for n, word in enumerate("abcdefgh")
    ]
    (tmp_path / "valid_gaz_Latn.jsonl").write_text("".join(rows))
    (tmp_path / "valid_deu_Latn.jsonl").write_text('{"text": "cat", "text_en": "cat"}\n')
    (tmp_path / "valid_swe_Latn.jsonl").write_text("")
    given = [
        "--encoder",
        encoder,
        "--data",
        tmp_path,
        "--languages",
        "gaz_Latn",
        "deu_Latn",
        "swe_Latn",
        "--output",
        tmp_path / "g",
    ]
    monkeypatch.setattr(sys, "argv", ["known_languages", *map(str, given)])
    assert known_languages.main() == 0
    found = json.loads((tmp_path / "g").read_text())
    assert found["gaz_Latn"]["n"] == 8
    assert found["gaz_Latn"]["retrieval"] <= 0.5
    assert found["deu_Latn"] == {"retrieval": 1.0, "n": 1}
    assert found["swe_Latn"] == {"retrieval": 0.0, "n": 0}
