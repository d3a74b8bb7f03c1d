"""Answers that cannot be used, by reason; good ones pass."""

import pytest

from mtllm_ds.transfer_sets.sdrrl.filters import LanguageCheck, is_repeated, why_rejected

GOOD = [
    "The capital of France is Paris.",
    "1. Mix the flour.\n2. Add water.\n3. Bake it.\n4. Eat it.\n5. Enjoy it.",
    "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n--------------------------------\n....................",
    "ha ha ha, that is very, very, very funny",
    "```python\nx = [0, 0, 0, 0, 0]\n```\nA list of zeros.",
    "42",
    "Yes.\nNo.\nYes.\nNo.\nYes.",
]
LOOPS = [
    "I am a model " * 5,
    "no no no no no",
    "The answer is here. It is good. " + "And then we see that it is so. " * 4,
    "\n".join(["Then go to the store.", "Then buy some milk."] * 4),
    "Do this first.\nA\nDo this first.\nB\nDo this first.\nC\nDo this first.",
]


@pytest.mark.parametrize("text", GOOD)
def test_ordinary_answers_pass(text):
    assert why_rejected(text, True, "eng_Latn", None) is None


@pytest.mark.parametrize("text", LOOPS)
def test_loops_are_seen_whether_cut_off_or_not(text):
    assert is_repeated(text)
    assert why_rejected(text, False, "eng_Latn", None) == why_rejected(text, True, "eng_Latn", None) == "repeated"


@pytest.mark.parametrize("text", ["", "  \n", "...", "---\n***"])
def test_nothing_is_empty(text):
    assert why_rejected(text, True, "eng_Latn", None) == "empty"


def test_what_does_not_end_is_cut_off():
    assert why_rejected("An answer that goes", False, "eng_Latn", None) == "cut_off"


@pytest.fixture(scope="module")
def check():
    pytest.importorskip("py3langid")
    return LanguageCheck()


def test_another_language_is_told(check):
    spanish = "La capital de Francia es París, y es una ciudad muy grande y bonita."
    assert why_rejected(spanish, True, "eng_Latn", check) == "wrong_language"
    assert why_rejected(spanish, True, "spa_Latn", check) is None
    assert why_rejected("Photosynthesis, mitochondria, chlorophyll", True, "eng_Latn", check) is None
    assert why_rejected("París, Madrid", True, "eng_Latn", check) is None  # too short to tell
    code = "Use this:\n```\nfonction principale avec une boucle et une condition dans la classe\n```"
    assert why_rejected(code, True, "eng_Latn", check) is None
    assert not check.knows("dik_Latn")
    assert why_rejected(spanish, True, "dik_Latn", check) is None


def test_the_likeliest_language_is_stricter_than_no_other(check):
    spanish = "La capital de Francia es París, y es una ciudad muy grande y bonita."
    assert check.is_likeliest(spanish, "spa_Latn")
    assert not check.is_likeliest(spanish, "eng_Latn")
    nonsense = "Další, věb 10, 2018, věb 1"
    assert not check.is_other(nonsense, "epo_Latn")
    assert not check.is_likeliest(nonsense, "epo_Latn")
    assert not check.is_likeliest("2018, 10.", "epo_Latn")
    assert not check.is_likeliest(spanish, "dik_Latn")
