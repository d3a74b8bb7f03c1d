"""Sentences end where readers of each script end them, and nothing is lost."""

import random

import pytest

from mtllm_ds.transfer_sets.translation.sentences import cut_in_two, split_sentences


def sentences(text: str) -> list[str]:
    return [piece.sentence for piece in split_sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Open it. Then close it!  Why? Done", ["Open it.", "Then close it!", "Why?", "Done"]),
        ('He said "No." She left.', ['He said "No."', "She left."]),
        ("See e.g. Fig. 3, or 3.5 of it. Dr. Who", ["See e.g. Fig. 3, or 3.5 of it.", "Dr. Who"]),
        ("1. Open it.\n2. Close it.", ["1. Open it.", "2. Close it."]),
        ("Das ist z. B. gut... sehr gut. Ja", ["Das ist z. B. gut... sehr gut.", "Ja"]),
        ("これは文です。「次の文！」そして。", ["これは文です。", "「次の文！」", "そして。"]),  # noqa: RUF001
        ("ជ្រើស​ក្រឡា ។ ហើយ​ជ្រើស​ពាក្យ។", ["ជ្រើស​ក្រឡា ។", "ហើយ​ជ្រើស​ពាក្យ។"]),
        ("क्या है? यह है। वह है।", ["क्या है?", "यह है।", "वह है।"]),
        ("ما هذا؟ هذا كتاب.", ["ما هذا؟", "هذا كتاب."]),
        ("one line\n\nanother line\n", ["one line", "another line"]),
        (" \n ", []),
        ("", []),
    ],
)
def test_sentences_of_many_scripts(text, expected):
    assert sentences(text) == expected


def test_gaps_and_sentences_are_the_whole_text():
    rng = random.Random(0)
    letters = 'ab。. !?\n1។\t"A'
    for _ in range(500):
        text = "".join(rng.choice(letters) for _ in range(rng.randrange(30)))
        pieces = split_sentences(text)
        assert "".join(gap + sentence for gap, sentence in pieces) == text.rstrip()
        assert all(sentence and sentence == sentence.strip() for _, sentence in pieces)


@pytest.mark.parametrize(
    ("sentence", "parts"),
    [
        ("one two three, four five six", ("one two three,", "four five six")),
        ("one two three four", ("one two", "three four")),
        ("ក្នុង\u200bផ្ទះ\u200bធំ", ("ក្នុង", "\u200bផ្ទះ\u200bធំ")),
        ("abcdef", ("abc", "def")),
    ],
)
def test_long_sentences_are_cut_near_the_middle(sentence, parts):
    assert cut_in_two(sentence) == parts


def test_one_character_cannot_be_cut():
    with pytest.raises(ValueError, match="cannot be cut"):
        cut_in_two("a")
