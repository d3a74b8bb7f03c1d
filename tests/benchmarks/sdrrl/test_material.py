"""Pairs of every row out of folders of `prepare sdrrl`: the same questions for all rows, held-out ones in none."""

import json
import sys

import pytest

from benchmarks.quality.text.folder_text import read_jsonl
from benchmarks.sdrrl.budgets import SMOKE
from benchmarks.sdrrl.material import main, pair_sets
from benchmarks.sdrrl.text import write_rows
from mtllm_ds.transfer_sets.sdrrl.instructions import instruction_id

SPLITS = {"train": 12, "valid": 3, "heldout": 2}


def answered(folder, texts, answers, rejected=(), word=None):
    """A folder of `prepare sdrrl` that answers the texts."""
    rows = [
        {"id": instruction_id(text), "prompt": text, "response": answer}
        for text, answer in zip(texts, answers, strict=True)
    ]
    write_rows(
        folder / "answers.jsonl", [row | ({"rejected": "cut_off"} if row["prompt"] in rejected else {}) for row in rows]
    )
    for code in SMOKE.languages:
        write_rows(
            folder / f"translations.{code}.jsonl",
            [
                row
                | {key: f"{code} {row[key]}" for key in ("prompt", "response")}
                | {"parts": [["", "a", "b"], [" ", "c", "d"]]}
                for row in rows
                if row["prompt"] not in rejected
            ],
        )
        if word is not None:
            write_rows(folder / f"lexicon.{code}.jsonl", [{"id": word, "translation": f"{code}-{word}"}])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("material")
    splits = [name for name, count in SPLITS.items() for _ in range(count)]
    asked = [f"A question, number {number}" for number in range(len(splits))]
    write_rows(
        root / "text/instructions.jsonl",
        [{"prompt": text, "gold": f"gold {text}", "split": split} for text, split in zip(asked, splits, strict=True)],
    )
    for code in SMOKE.languages:
        lines = [{"text_en": f"line {n}", "text": f"{code} a b c d e f g h {n}"} for n in range(9)]
        write_rows(root / f"text/parallel_{code}.jsonl", lines)
    itself = [f"My own question {number}" for number in range(6)]
    answered(root / "own", asked, [f"own {text}" for text in asked], rejected={asked[0]}, word="number")
    answered(root / "reference", asked, [f"gold {text}" for text in asked], rejected={asked[1]})
    answered(root / "self", itself, [f"self {text}" for text in itself], word="own")
    folders = [part for name in ("own", "self", "reference", "text") for part in (f"--{name}", str(root / name))]
    old = sys.argv
    sys.argv = [
        "material",
        *folders,
        "--budget",
        "smoke",
        "--sets",
        *(pairs.name for pairs in pair_sets(SMOKE)),
        "--output",
        str(root / "pairs"),
    ]
    try:
        assert main() == 0
    finally:
        sys.argv = old
    return root / "pairs", asked, itself


def test_all_rows_answer_the_same_questions(made):
    folder, asked, itself = made
    trained = {instruction_id(text) for text in (*asked[2:12], *itself[:4])}
    for pairs in pair_sets(SMOKE):
        rows = read_jsonl(folder / f"{pairs.name}.jsonl")
        found = {row["history"]["instruction"] for row in rows if "instruction" in row["history"]}
        assert found <= trained, pairs.name
        assert {row["pair_type"] for row in rows} == {name for name, weight in pairs.weights.items() if weight}
    asked_of = [
        sorted(row["prompt"] for row in read_jsonl(folder / f"{name}.jsonl")) for name in ("sdrrl", "reference")
    ]
    assert asked_of[0] == asked_of[1]
    # the reference's folder has no lexicon: its questions are switched by the words of the model's own
    switched = [row for row in read_jsonl(folder / "reference.jsonl") if row["pair_type"] == "code_switched"]
    assert {row["history"]["instruction"] for row in switched} & {instruction_id(text) for text in asked}


def test_reference_answers_stand_where_there_are_some(made):
    folder, _, _ = made
    own, reference = (
        {row["id"]: row["response"] for row in read_jsonl(folder / f"{name}.jsonl")} for name in ("sdrrl", "reference")
    )
    assert own.keys() == reference.keys()
    for name, response in own.items():
        assert reference[name] == response.replace("own A question", "gold A question")
    assert any("gold" in response for response in reference.values())
    assert any("self" in response for response in reference.values())


def test_the_second_stage_validates_on_questions_of_no_row(made):
    folder, asked, _ = made
    rows = read_jsonl(folder / "own_answer.valid.jsonl")
    assert {row["history"]["instruction"] for row in rows} == {instruction_id(text) for text in asked[12:15]}
    assert all(row["response"] in row["teacher_prompt"] for row in rows)


def test_held_out_questions_are_of_text_and_of_the_models_own(made):
    folder, asked, itself = made
    rows = read_jsonl(folder / "questions.jsonl")
    assert [row["english"] for row in rows] == [*asked[15:], *itself[4:]]
    assert rows[0]["deu_Latn"]["prompt"] == f"deu_Latn {asked[15]}"
    counts = json.loads((folder / "material.json").read_text())
    assert counts["used"] == {"train": 14, "valid": 3, "heldout": 4}
