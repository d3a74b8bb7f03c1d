"""Descriptions among the prompts: as many in each language that has translations, shared where they can be, none in training."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.generative.budgets import SMOKE
from benchmarks.generative.data import english_first
from benchmarks.generative.descriptions import heldout_descriptions, kind_of, training_descriptions
from benchmarks.quality.text.leaks import LeakTest
from mtllm_ds.errors import UserError

BUDGET = replace(SMOKE, num_descriptions=2, num_train_descriptions=1)
TEXT = {name: f"{name} shows pictures\nIt draws what it is given, in the colours {name} has." for name in "abcd"}


@pytest.fixture
def folder(tmp_path):
    """German has a, b, c; Japanese d, c, b; Oromo nothing."""
    for code, names in (("deu_Latn", "abc"), ("jpn_Jpan", "dcb")):
        rows = [{"id": name, "group": f"g{name}", "text": f"{code} {name}", "text_en": TEXT[name]} for name in names]
        write(tmp_path / f"test_{code}.jsonl", [*rows, {"id": "z", "group": "z", "text": "kurz", "text_en": "short"}])
    train = [TEXT["a"], "A new description\nof a package that nobody tests, and long enough.", "too short"]
    write(tmp_path / "train_eng_Latn.jsonl", [{"text": text} for text in [*train, train[1]]])
    return tmp_path


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_languages_share_what_they_can_and_their_originals_are_asked_too(folder):
    rows = heldout_descriptions(folder, BUDGET)
    assert Counter(row["language"] for row in rows) == {"eng_Latn": 2, "deu_Latn": 2, "jpn_Jpan": 2}
    assert {row["id"] for row in rows} == {"description-b", "description-c"}
    assert all(row["english"] == TEXT[row["id"][-1]] for row in rows)
    assert {row["prompt"] for row in rows if row["language"] == "jpn_Jpan"} == {"jpn_Jpan b", "jpn_Jpan c"}
    assert set(kind_of(rows)) == {"description"}
    assert kind_of([{"group": "x1"}]) == ["help"]


def test_training_has_no_heldout_one_and_none_twice(folder):
    texts = [row["prompt"] for row in training_descriptions(folder, LeakTest([TEXT["a"]]))]
    assert texts == ["A new description\nof a package that nobody tests, and long enough."]


def test_originals_stand_first_language_by_language():
    rows = [
        {"language": code, "id": n}
        for n, code in enumerate(["eng_Latn", "deu_Latn", "eng_Latn", "jpn_Jpan", "deu_Latn"])
    ]
    assert [row["id"] for row in english_first(rows)] == [0, 2, 1, 4, 3]


def test_too_few_and_none_are_one_line(folder, tmp_path):
    with pytest.raises(UserError, match=r"^DDTP=.*3 descriptions of 40 to 300 .* in deu_Latn.*wants 9"):
        heldout_descriptions(folder, replace(BUDGET, num_descriptions=9))
    with pytest.raises(UserError, match=r"^DDTP=.*make ddtp"):
        heldout_descriptions(tmp_path / "none", BUDGET)


@pytest.mark.parametrize(
    ("module", "options", "said"),
    [
        ("data", ["--budget", "cpu"], "error: --descriptions: --budget=cpu asks for them"),
        ("generative", ["--budget", "cpu", "--dry-run"], "error: --descriptions: --budget=cpu asks for them"),
        (
            "generative",
            ["--budget", "smoke", "--descriptions", "x", "--dry-run"],
            "error: --descriptions=x: --budget=smoke reads none",
        ),
    ],
)
def test_a_budget_and_its_folder_belong_together(tmp_path, module, options, said):
    command = [
        sys.executable,
        "-m",
        f"benchmarks.generative.{module}",
        "--text",
        "assets/text",
        *options,
        "--output",
        str(tmp_path),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith(said)
    assert len(run.stderr.splitlines()) == 1
