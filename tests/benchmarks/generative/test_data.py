"""Prompts of the generative benchmark: the same paragraphs in every language, and none of them, nor half of one, in training."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.generative.budgets import SMOKE
from benchmarks.generative.data import heldout_prompts, prompts_of, training_prompts, with_translations
from benchmarks.quality.text.leaks import LeakTest, folded
from mtllm_ds.errors import UserError

SAMPLE = Path("assets/text")


@pytest.fixture(scope="module")
def heldout():
    return heldout_prompts(SAMPLE, SMOKE)


def test_every_language_asks_the_same_in_the_same_order(heldout):
    by_language = {}
    for row in heldout:
        by_language.setdefault(row["language"], []).append(row)
    assert list(by_language) == ["eng_Latn", *SMOKE.languages]
    english = by_language["eng_Latn"]
    assert all(row["prompt"] == row["english"] for row in english)
    for rows in by_language.values():
        assert [(row["id"], row["english"]) for row in rows] == [(row["id"], row["prompt"]) for row in english]
        assert len(rows) == SMOKE.num_heldout
    assert by_language["deu_Latn"][0]["prompt"] != by_language["jpn_Jpan"][0]["prompt"]


def test_training_is_english_and_holds_no_heldout_prompt(heldout):
    train, valid = training_prompts(SAMPLE, SMOKE, heldout)
    assert (len(train), len(valid)) == (SMOKE.num_train, SMOKE.num_valid)
    assert {row["language"] for row in train + valid} == {"eng_Latn"}
    texts = [row["prompt"] for row in train + valid]
    assert len(set(texts)) == len(texts)
    assert not {folded(text) for text in texts} & {folded(row["english"]) for row in heldout}


def test_what_gives_a_heldout_prompt_away_is_left_out():
    secret = "the formula bar shows what the chosen cell of the sheet holds right now"
    texts = ["Another paragraph that is long enough to be a prompt.", f"It is known that {secret}, as was said."]
    page = {"page": "a", "paragraphs": [{"kind": "p", "text": text} for text in texts]}
    assert [row["prompt"] for row in prompts_of([page], LeakTest([secret]))] == texts[:1]


def test_translations_are_read_by_the_student_alone():
    rows = [{"id": str(n), "language": "eng_Latn", "prompt": f"text {n}", "english": f"text {n}"} for n in range(6)]
    known = {f"text {n}": {"deu_Latn": f"Text {n}"} for n in range(5)}
    found = with_translations(rows, known, LeakTest(["Text 3"]))
    assert [row["prompt"] for row in found] == ["text 0", "Text 1", "text 2", "text 3", "text 4", "text 5"]
    assert found[1]["language"] == "deu_Latn"
    assert [row["english"] for row in found] == [row["english"] for row in rows]


def test_missing_translations_and_too_little_text_are_one_line(heldout):
    with pytest.raises(UserError, match=r"^TEXT=.*has no topics_test_spa_Latn.*HELP_LANGUAGES"):
        heldout_prompts(SAMPLE, replace(SMOKE, languages=("spa_Latn",)))
    with pytest.raises(UserError, match=r"^TEXT=.*wants 9999"):
        heldout_prompts(SAMPLE, replace(SMOKE, num_heldout=9999))
    with pytest.raises(UserError, match=r"^TEXT=.*prompts to train on"):
        training_prompts(SAMPLE, replace(SMOKE, num_train=10**6), heldout)
