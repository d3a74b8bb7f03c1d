import hashlib
import json
import lzma

import pytest

from mtllm_ds.data.writing.builder import build_shards
from mtllm_ds.data.writing.display import print_samples, print_summary
from mtllm_ds.data.writing.filters import normalized_hash, read_exclusions
from mtllm_ds.data.writing.settings import ShardSettings
from mtllm_ds.data.writing.sources import InputFile
from mtllm_ds.errors import UserError


def test_hashes_fold_case_and_all_but_words():
    expected = hashlib.sha256(b"use variable bit rate 3").hexdigest()[:24]
    assert normalized_hash("  Use: *Variable* bit-rate (3)!") == expected


def test_repeated_and_forbidden_documents_are_left_out_and_counted(specs, tmp_path):
    rows = [
        ("one cell", "die Zelle"),
        ("the test", "der Test"),  # forbidden by its English side
        ("another", "die Zelle"),  # repeats the first
        ("blank", " "),
        ("a formula", "die Formel"),
    ]
    text, exclude = tmp_path / "a.jsonl", tmp_path / "exclude.xz"
    text.write_text("".join(json.dumps({"en": en, "de": de}) + "\n" for en, de in rows))
    exclude.write_bytes(lzma.compress(f"{normalized_hash('The TEST.')}\n{'0' * 24}\n".encode()))
    source = InputFile(path=str(text), language="deu_Latn", text_field="de", compared_field="en")
    settings = ShardSettings(inputs=(source,), **specs, deduplicate=True, exclusion_list=str(exclude))
    manifest = build_shards(settings, tmp_path / "out", num_workers=1)
    counts = manifest.statistics["deu_Latn"]
    assert {name: counts[name] for name in ("documents", "samples", "duplicate", "excluded", "empty")} == {
        "documents": 5, "samples": 2, "duplicate": 1, "excluded": 1, "empty": 1
    }  # fmt: skip


def test_a_list_that_is_none_is_refused(tmp_path):
    path = tmp_path / "exclude"
    path.write_text("not a hash\n")
    with pytest.raises(UserError, match="line 1: not 24 hex digits"):
        read_exclusions(str(path))
    with pytest.raises(UserError, match=r"--exclude=.*: no such file"):
        read_exclusions(str(tmp_path / "none"))


def test_stats_and_show(dataset, capsys):
    print_summary(dataset)
    printed = capsys.readouterr().out
    counts = dataset.statistics["deu_Latn"]
    row = next(line for line in printed.splitlines() if "deu_Latn" in line)
    assert f"{counts['encoder_tokens']:,}" in row
    assert f"{counts['text_bytes'] / counts['llm_tokens']:.2f}" in row
    print_samples(dataset, block=1, count=2)
    printed = capsys.readouterr().out
    assert "sample 16" in printed
    assert "sample 18" not in printed
    assert "<bos>16 " in printed  # the texts are numbered
    with pytest.raises(UserError, match="--block=99"):
        print_samples(dataset, block=99, count=1)
