"""The benchmark's first step on a small folder: what it writes, and what stops it."""

import json
import lzma
import subprocess
import sys

import pytest

from benchmarks.quality.claim.data import known_languages, require_no_leak
from benchmarks.quality.text import frozen
from mtllm_ds.errors import UserError
from tests.fixtures.models import save_bert
from tests.fixtures.runs import REPOSITORY


def long(number):
    """Twelve words that stand in no other text."""
    return " ".join(f"word{number}and{place}" for place in range(12))


@pytest.fixture
def folder(tmp_path):
    """Package descriptions in English and German, as `fetch_ddtp` lays them out: 6 to train, 4 to validate, 3 to test."""
    root = tmp_path / "text"
    root.mkdir()

    def item(number, **more):
        return {"id": str(number), "group": f"g{number}", "label": "games", "text": long(number)} | more

    def german(number):
        return {"text": f"Deutsch {number}", "text_en": long(number)}

    rows = {
        "train_eng_Latn": map(item, range(6)),
        "valid_eng_Latn": map(item, range(10, 14)),
        "test_eng_Latn": map(item, range(20, 23)),
        "test_deu_Latn": (item(number, **german(number)) for number in range(30, 33)),
        "valid_deu_Latn": map(german, range(10, 14)),
    }
    for name, listed in rows.items():
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    pages = [{"page": f"g{n}", "paragraphs": [{"kind": "p", "text": long(n)}]} for n in (*range(6), 10, 11)]
    (root / "documents_eng_Latn.jsonl.xz").write_bytes(lzma.compress("\n".join(map(json.dumps, pages)).encode()))
    pairs = "".join(f"Segment {n}\tAbschnitt {n}\n" for n in range(5))
    (root / "parallel_deu_Latn.tsv.xz").write_bytes(lzma.compress(pairs.encode()))
    return root


def prepare(folder, *more):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.quality.claim.data", "--task", "ddtp_topics", "--mt", "assets/mt",
         "--data", str(folder), "--output", str(folder.parent / "data"), *more],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def counts_of(folder):
    return json.loads((folder.parent / "data" / "data.json").read_text())["counts"]


def other_languages(folder):
    """The MT model in assets/ knows four languages of the task: give each what German has."""
    for code in ("fra_Latn", "jpn_Jpan", "rus_Cyrl"):
        for name in ("test_{}.jsonl", "valid_{}.jsonl", "parallel_{}.tsv.xz"):
            (folder / name.format(code)).write_bytes((folder / name.format("deu_Latn")).read_bytes())


def test_what_it_writes(folder):
    other_languages(folder)
    done = prepare(
        folder, "--any-data", "--train-items", "4", "--valid-items", "3", "--test-items", "2", "--stage1-texts", "5"
    )
    assert done.returncode == 0, done.stderr
    counts = counts_of(folder)
    assert (counts["train items"], counts["valid items"], counts["test items deu_Latn"]) == (6, 4, 2)
    assert (counts["stage1_train"], counts["stage1_valid"], counts["valid_deu_Latn"]) == (5, 2, 4)
    assert counts["monolingual_deu_Latn"] == 5
    data = folder.parent / "data"
    assert len((data / "task" / "train_eng_Latn.jsonl").read_text().splitlines()) == 4
    assert len((data / "task" / "valid_eng_Latn.jsonl").read_text().splitlines()) == 3


def test_parallel_text_holds_no_training_item_and_no_label(folder):
    pairs = [
        (long(2), "e" * 50),
        ("short", "kurz"),
        (long(40), "f" * 400),
        *((long(n), "d" * 60) for n in range(50, 56)),
    ]
    content = "".join(f"{english}\t{german}\n" for english, german in pairs)
    (folder / "parallel_deu_Latn.tsv.xz").write_bytes(lzma.compress(content.encode()))
    other_languages(folder)
    done = prepare(folder, "--any-data", "--parallel-texts", "4")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in (folder.parent / "data" / "parallel_deu_Latn.jsonl").read_text().splitlines()]
    assert len(found) == 4
    assert {row["text_en"] for row in found} <= {long(n) for n in range(50, 56)}
    assert {row["text"] for row in found} == {"d" * 60}
    english = (folder.parent / "data" / "parallel_eng_Latn.jsonl").read_text().splitlines()
    assert all(row["text"] == row["text_en"] for row in map(json.loads, english))


def test_an_encoder_without_tags_reads_the_languages_that_are_named(tmp_path):
    encoder = str(save_bert(tmp_path))
    assert known_languages(encoder, ["eng_Latn", "cat_Latn", "deu_Latn"]) == ["cat_Latn", "deu_Latn"]
    assert known_languages("assets/mt", ["eng_Latn", "cat_Latn", "deu_Latn"]) == ["deu_Latn"]


def test_english_of_another_task_is_text_of_stage_1_where_it_gives_nothing_away(folder, tmp_path):
    """Of 12 paragraphs of the other folder its own test has 1, ours 1 and our validation 1; 2 are here already."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "test_eng_Latn.jsonl").write_text(
        json.dumps({"id": "1", "group": "g", "label": "x", "text": long(90)}) + "\n"
    )
    (other / "valid_eng_Latn.jsonl").write_text(json.dumps({"id": "2", "group": "held", "text": long(95)}) + "\n")
    numbers = [*range(80, 87), 90, 31, 11, 0, 1]
    pages = [{"page": f"o{n}", "paragraphs": [{"kind": "p", "text": long(n)}]} for n in numbers]
    (other / "documents_eng_Latn.jsonl.xz").write_bytes(lzma.compress("\n".join(map(json.dumps, pages)).encode()))
    done = prepare(folder, "--any-data", "--languages", "deu_Latn", "--more-text", str(other), "--valid-pairs", "6",
                   "--fill-valid-pairs")  # fmt: skip
    assert done.returncode == 0, done.stderr
    data = folder.parent / "data"
    texts = {json.loads(line)["text"] for line in (data / "stage1_train.jsonl").read_text().splitlines()}
    assert texts == {long(n) for n in (*range(6), *range(80, 87))}
    assert json.loads((data / "data.json").read_text())["languages"] == ["deu_Latn"]
    # Four validation pairs; the parallel text has nothing long enough to fill up with.
    assert counts_of(folder)["valid_deu_Latn"] == 4


def test_validation_pairs_are_filled_up_from_parallel_text(folder):
    pairs = "".join(f"{long(n)}\t{'d' * 60}{n}\n" for n in range(50, 56))
    (folder / "parallel_deu_Latn.tsv.xz").write_bytes(lzma.compress(pairs.encode()))
    done = prepare(folder, "--any-data", "--languages", "deu_Latn", "--valid-pairs", "7", "--fill-valid-pairs")
    assert done.returncode == 0, done.stderr
    assert counts_of(folder)["valid_deu_Latn"] == 7  # four of validation items, three of six others


def test_another_folder_than_the_frozen_one_is_refused(folder):
    other_languages(folder)
    done = prepare(folder)
    assert done.returncode == 2
    assert "not the file that the benchmark was set up with" in done.stderr
    assert "--any-data" in done.stderr


@pytest.mark.parametrize(
    ("more", "message"), [(["--task", "nonsuch"], "invalid choice"), (["--train-items", "-1"], "whole number")]
)
def test_mistakes_of_the_command_line(folder, more, message):
    done = prepare(folder, *more)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_leak_stops_the_run(folder, tmp_path):
    (tmp_path / "task").mkdir()
    for name in ("stage1_valid.jsonl", "task/train_eng_Latn.jsonl", "task/valid_eng_Latn.jsonl"):
        (tmp_path / name).write_text("")
    (tmp_path / "stage1_train.jsonl").write_text(json.dumps({"text": f"Before. {long(31)} After."}) + "\n")
    with pytest.raises(UserError, match="holds 100% of the test item"):
        require_no_leak(tmp_path, folder)
    (tmp_path / "stage1_train.jsonl").write_text("")
    require_no_leak(tmp_path, folder)
    pair = {"text": "Deutsch", "text_en": f"Before. {long(31)} After."}
    (tmp_path / "parallel_deu_Latn.jsonl").write_text(json.dumps(pair) + "\n")
    with pytest.raises(UserError, match="holds 100% of the test item"):
        require_no_leak(tmp_path, folder)


def test_a_missing_validation_file_is_a_change(folder, tmp_path):
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps(frozen.files_of(folder, ["deu_Latn"])))
    assert frozen.changed_files(folder, ["deu_Latn"], manifest) == []
    (folder / "valid_deu_Latn.jsonl").unlink()
    assert frozen.changed_files(folder, ["deu_Latn"], manifest) == ["valid_deu_Latn.jsonl"]
