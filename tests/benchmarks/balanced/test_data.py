"""Text for the balanced benchmark: what is tested was never trained on, in no language, and sizes are what the protocol says."""

import json
import lzma
from dataclasses import replace

import pytest

from benchmarks.balanced.budgets import CPU, GPU, SMOKE
from benchmarks.balanced.data import SPLITS, described, english_hashes, require_ratio, split_languages
from benchmarks.parallel_folder import require_languages
from benchmarks.quality.text.fetch_help_text import PACKAGES
from mtllm_ds.atomic import sha256_file
from mtllm_ds.data.writing.filters import normalized_hash
from mtllm_ds.errors import UserError
from tests.fixtures.runs import REPOSITORY

TEXT = REPOSITORY / "assets" / "text"


@pytest.fixture(scope="module")
def splits():
    return split_languages(TEXT, SMOKE)


def english_of(code):
    with lzma.open(TEXT / f"parallel_{code}.jsonl.xz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {row["text"].strip(): row["text_en"].strip() for row in rows}


def test_no_line_stands_in_two_splits_whatever_its_case_and_language(splits):
    seen = {name: {normalized_hash(line) for lines in splits[name].values() for line in lines} for name in SPLITS}
    for name in ("train", "balanced", "valid"):
        assert not seen[name] & seen["test"]
    assert not seen["train"] & seen["valid"]


def test_what_one_language_is_tested_on_no_other_was_trained_on(splits):
    """Translations of one English text lie in the same split."""
    where = {}
    for name in ("train", "valid", "test"):
        for code in ("deu_Latn", "fra_Latn", "khm_Khmr"):
            english = english_of(code)
            for line in splits[name][code]:
                where.setdefault(normalized_hash(english[line]), set()).add(name)
        for line in splits[name]["eng_Latn"]:
            where.setdefault(normalized_hash(line), set()).add(name)
    assert len(where) > 100
    assert all(len(names) == 1 for names in where.values())


def test_sizes(splits):
    sizes = {name: {code: len(lines) for code, lines in own.items()} for name, own in splits.items()}
    smallest = min(sizes["train"].values())
    assert set(sizes["balanced"].values()) == {smallest}
    assert all(sizes["train"][code] == smallest for code in SMOKE.low)
    assert all(sizes["train"][code] > 2 * smallest for code in SMOKE.high)
    for code, lines in splits["balanced"].items():
        assert set(lines) <= set(splits["train"][code])
    assert splits == split_languages(TEXT, SMOKE)


def test_the_manifest_names_what_was_read_and_written(splits, tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "deu_Latn.jsonl").write_text("x")
    found = described(TEXT, tmp_path, splits)
    assert found["read"]["parallel_deu_Latn.jsonl.xz"] == sha256_file(TEXT / "parallel_deu_Latn.jsonl.xz")
    assert found["written"] == {"test/deu_Latn.jsonl": sha256_file(tmp_path / "test" / "deu_Latn.jsonl")}
    assert found["bytes"]["train"]["khm_Khmr"] == sum(len(line.encode()) for line in splits["train"]["khm_Khmr"])


def test_tsv_reads_as_jsonl_does(splits, tmp_path):
    for code in ("deu_Latn", "fra_Latn", "khm_Khmr"):
        rows = "".join(f"{english}\t{line}\n" for line, english in english_of(code).items())
        with lzma.open(tmp_path / f"{code}.tsv.xz", "wt", encoding="utf-8") as file:
            file.write(rows)
    again = split_languages(tmp_path, SMOKE)
    assert again["test"]["khm_Khmr"] == splits["test"]["khm_Khmr"]


def test_mistakes_are_one_line(splits, tmp_path):
    with pytest.raises(
        UserError, match=r"TEXT=.*: has no deu_Latn.tsv.xz, parallel_deu_Latn.tsv.xz or parallel_deu_Latn.jsonl.xz"
    ):
        split_languages(tmp_path, SMOKE)
    with pytest.raises(UserError, match=r"BUDGET=cpu lacks parallel text of cat_Latn, eus_Latn; `make help-text"):
        require_languages(TEXT, CPU.languages, CPU.name)
    require_languages(TEXT, SMOKE.languages, SMOKE.name)
    with pytest.raises(UserError, match="less than 40 times as many"):
        require_ratio(splits["train"], replace(SMOKE, least_ratio=40.0))


def test_test_lines_know_the_english_line_that_they_share(splits):
    for code in ("deu_Latn", "khm_Khmr"):
        found = english_hashes(TEXT, code, SMOKE, splits["test"][code])
        assert found == {line: normalized_hash(english_of(code)[line]) for line in splits["test"][code]}
    english = english_hashes(TEXT, "eng_Latn", SMOKE, splits["test"]["eng_Latn"])
    assert all(english[line] == normalized_hash(line) for line in splits["test"]["eng_Latn"])


def test_the_text_of_every_budget_can_be_fetched():
    assert {code for budget in (CPU, GPU) for code in budget.languages} <= PACKAGES.keys()
