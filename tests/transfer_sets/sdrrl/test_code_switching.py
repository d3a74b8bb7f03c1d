"""Code-switching replaces exactly the share of known words that was asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtllm_ds.transfer_sets.sdrrl.code_switching import switched, words_of

LEXICON = {"house": "casa", "red": "rojo", "the": "el", "don't": "no", "usa": "eua"}
TEXT = "The red house, the USA: don't `paint` it. THE end"


def test_ratios_0_and_1_are_exact():
    assert switched(TEXT, LEXICON, 0.0, 1) == TEXT
    assert switched(TEXT, LEXICON, 1.0, 1) == "El rojo casa, el EUA: no `paint` it. EL end"


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5, 0.75])
def test_the_share_is_that_of_known_words(ratio):
    words = [f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(100)]
    lexicon = {word: word.upper() + "x" for word in words[:40]}
    found = switched(" ".join(words), lexicon, ratio, 5).split()
    assert sum(one != word for one, word in zip(found, words, strict=True)) == int(40 * ratio + 0.5)
    assert found[40:] == words[40:]


def test_the_draw_is_that_of_the_key():
    text = " ".join(["red house"] * 10)
    assert (
        switched(text, LEXICON, 0.5, 1, 2) == switched(text, LEXICON, 0.5, 1, 2) != switched(text, LEXICON, 0.5, 2, 1)
    )


@given(st.text(max_size=50), st.floats(0, 1))
def test_an_unknown_text_stays(text, ratio):
    assert switched(text, {}, ratio, 0) == text


def test_words_are_lower_cased_once_and_sorted():
    assert words_of(["The cat, don't!", "the 3 DOGS_x"]) == ["cat", "dogs", "don't", "the", "x"]
