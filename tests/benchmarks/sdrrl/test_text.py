"""Text for the SDRRL benchmark: what is held out is in nothing that trains, and every instruction has the answer of people."""

import json
from dataclasses import replace

import pytest

from benchmarks.parallel_folder import split_of
from benchmarks.quality.text.leaks import LeakTest
from benchmarks.sdrrl.budgets import SMOKE
from benchmarks.sdrrl.text import asked, files_of, is_prose
from mtllm_ds.errors import UserError
from tests.fixtures.runs import REPOSITORY

TEXT = REPOSITORY / "assets" / "text"


@pytest.fixture(scope="module")
def files():
    return files_of(TEXT, SMOKE)


def test_sizes_are_the_budgets(files):
    splits = [row["split"] for row in files["instructions"]]
    assert (splits.count("train"), splits.count("valid")) == (SMOKE.num_text, SMOKE.num_valid)
    assert splits.count("heldout") == SMOKE.num_text_questions
    for code in SMOKE.languages:
        assert len(files[f"human_{code}"]) == SMOKE.num_lines
        assert len(files[f"parallel_{code}"]) == SMOKE.num_parallel
    assert len(files["human_eng_Latn"]) == 2 * SMOKE.num_lines


def test_nothing_that_is_measured_is_trained_on(files):
    english = LeakTest([row["english"] for name, rows in files.items() if name.startswith("human_") for row in rows])
    read = [row["text_en"] for code in SMOKE.languages for row in files[f"parallel_{code}"]]
    read += [f"{row['prompt']} {row['gold']}" for row in files["instructions"]]
    assert list(english.leaks(read)) == []
    for code in SMOKE.languages:
        own = LeakTest([row["text"] for row in files[f"human_{code}"]])
        assert list(own.leaks([row["text"] for row in files[f"parallel_{code}"]])) == []
    assert {split_of(row["english"]) for name in files if name.startswith("human_") for row in files[name]} == {"test"}
    prompts = [row["prompt"] for row in files["instructions"]]
    assert len(set(prompts)) == len(prompts)


def test_an_instruction_is_about_its_line_and_the_line_answers_it():
    line = "Choose the folder where backup copies of documents are stored automatically."
    words, rest = asked(line, 0), asked(line, 1)
    assert words["gold"] == line
    assert words["prompt"] == ("Write a sentence with these words: choose, folder, documents, automatically.")
    beginning = rest["prompt"].partition("\n")[2]
    assert f"{beginning} {rest['gold']}" == line
    assert rest["prompt"] == f"Continue this text:\n{beginning}"  # of no domain: TEXT may be of any


def test_labels_and_code_are_no_prose():
    assert is_prose("Choose the folder where backup copies of documents are stored, if there is one.")
    assert not is_prose("Save as")
    assert not is_prose('<item type="x">%s</item> {0} == {1} && ($2 || $3) -> 0x3f2a; /usr/%s/%d #42')


def test_too_little_text_is_one_line():
    with pytest.raises(UserError, match=r"English lines for train, --budget=smoke wants 9999; give more text"):
        files_of(TEXT, replace(SMOKE, num_text=9_999))


def test_the_rows_are_plain_json(files):
    assert json.loads(json.dumps(files)) == files
