"""The launcher: one line, exit status 2, and what was there stays as it is."""

import json
import subprocess
import sys

import pytest


def prepare(*arguments):
    command = [sys.executable, "launchers/prepare.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def assert_one_line(result, *words):
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert all(word in result.stderr for word in words), result.stderr


@pytest.fixture
def sides(tokenizer_folders):
    return ["--encoder", tokenizer_folders["encoder"], "--llm", tokenizer_folders["llm"]]


def test_wrong_tag_and_empty_file(tmp_path, sides):
    text, empty = tmp_path / "a.jsonl", tmp_path / "empty.jsonl"
    text.write_text(json.dumps({"text": "x"}) + "\n")
    empty.write_text("")
    output = tmp_path / "out"
    result = prepare("shards", "--input", text, "--language", "ell_Latn", *sides, "--output", output)
    assert_one_line(result, "ell_Latn", "ell_Grek")
    result = prepare("shards", "--input", text, empty, "--language", "eng_Latn", *sides, "--output", output)
    assert_one_line(result, "empty.jsonl: is empty; leave it out")
    assert not output.exists()


def test_verify(dataset, dataset_copy):
    result = prepare("verify", dataset.storage.root)
    assert result.returncode == 0, result.stderr
    assert "328 samples, all whole" in result.stdout
    shard = dataset_copy / dataset.shards[-1].name
    shard.write_bytes(shard.read_bytes()[:-1000])
    assert_one_line(prepare("verify", dataset_copy), shard.name)
