"""Input as it comes: each mistake is one line that names file and line, and with `on_error: skip` is counted by its reason."""

import json
import re
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from mtllm_ds.data.writing.builder import build_shards
from mtllm_ds.data.writing.settings import ShardSettings
from mtllm_ds.data.writing.sources import InputFile
from mtllm_ds.errors import UserError

GOOD = b'{"text": "the cells", "lang": "eng_Latn", "y": "1"}\n'
LABELS = {"label_field": "y", "labels": ("0", "1")}
BY_ROW = {"language": None, "language_field": "lang"}


def row(**changed) -> bytes:
    return json.dumps({"text": "the dialog", "lang": "eng_Latn", "y": "1"} | changed).encode() + b"\n"


LINES = {
    "lone surrogate": (b'{"text": "smile \\ud83d cut"}\n', {}, "no_text", "half a character"),
    "NUL": (row(text="a\0b"), {}, "no_text", "a NUL character"),
    "deep JSON": (b"[" * 100_000 + b"\n", {}, "not_json", "nested too deeply"),
    "number of 5,000 digits": (b'{"text": "a", "x": ' + b"1" * 5000 + b"}\n", {}, "not_json", "too many digits"),
    "not JSON": (b'{"text": oops}\n', {}, "not_json", "not JSON"),
    "a list": (b'["text"]\n', {}, "not_json", "not a JSON object"),
    "not UTF-8": ('{"text": "Grüße"}\n'.encode("latin-1"), {}, "not_utf8", "not UTF-8"),
    "null": (row(text=None), {}, "no_text", "not a string but NoneType"),
    "a number as text": (row(text=1.5), {}, "no_text", "not a string but float"),
    "no field": (b'{"body": "x"}\n', {}, "no_field", "no field 'text'; there are 'body'"),
    "a thousand fields": (
        json.dumps({f"f{i}": 1 for i in range(1000)}).encode() + b"\n",
        {},
        "no_field",
        "no field 'text'",
    ),
    "label 1.7": (row(y=1.7), LABELS, "bad_label", "the label 1.7 is none of --labels 0, 1"),
    "label 1e400": (b'{"text": "x", "y": 1e400}\n', LABELS, "bad_label", "the label inf is none of"),
    "label true": (row(y=True), LABELS, "bad_label", "the label True is none of"),
    "label 1_0": (row(y="1_0"), LABELS, "bad_label", "the label '1_0' is none of"),
    "label beyond int32": (row(y=2**40), LABELS, "bad_label", "is none of --labels"),
    "unknown language": (row(lang="xx"), BY_ROW, "unknown_language", "'xx'"),
    "language of another type": (row(lang=[1]), BY_ROW, "unknown_language", "unknown"),
    "a language without a tag halfway": (row(lang="fur_Latn"), BY_ROW, "no_tag", "no tag for language 'fur_Latn'"),
}


def settings_for(specs, path, **fields) -> ShardSettings:
    on_error = fields.pop("on_error", "fail")
    source = InputFile(path=str(path), **({"language": "eng_Latn"} | fields))
    return ShardSettings(inputs=(source,), **specs, on_error=on_error)


def assert_refused(settings, output, *words):
    with pytest.raises(UserError) as raised:
        build_shards(settings, output, num_workers=1)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 700
    for word in words:
        assert word.lower() in message.lower()
    assert not (output / "manifest.json").exists()


@pytest.mark.parametrize("name", LINES)
def test_a_bad_line_is_told_with_its_place_or_skipped_and_counted(specs, tmp_path, name):
    bad, fields, reason, words = LINES[name]
    path = tmp_path / "in.jsonl"
    path.write_bytes(GOOD + GOOD + bad + GOOD)
    assert_refused(settings_for(specs, path, **fields), tmp_path / "out", f"{path}, line 3:", words)
    manifest = build_shards(settings_for(specs, path, **fields, on_error="skip"), tmp_path / "skipped", num_workers=1)
    total = {reason: sum(counts.get(reason, 0) for counts in manifest.statistics.values())}
    assert (manifest.num_samples, total) == (3, {reason: 1})


@pytest.mark.parametrize("name", [name for name in LINES if "halfway" not in name])
def test_what_is_wrong_with_the_first_line_is_known_before_the_work(specs, tmp_path, name):
    bad, fields, _, words = LINES[name]
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_bytes(GOOD)
    second.write_bytes(bad + GOOD)
    one = settings_for(specs, first, **fields).inputs + settings_for(specs, second, **fields).inputs
    assert_refused(ShardSettings(inputs=one, **specs), tmp_path / "out", f"{second}, line 1:", words)
    assert not (tmp_path / "out").exists()


def test_parquet_with_null_rows_and_flipped_bytes(specs, tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["x", None]}), path)
    assert_refused(settings_for(specs, path), tmp_path / "out", f"{path}, row 2:", "not a string but NoneType")
    text = {"text": [f"the cells of table {i}" for i in range(3000)]}
    parquet.write_table(pyarrow.table(text), path, compression="none", write_page_checksum=True, use_dictionary=False)
    whole = path.read_bytes()
    for place in (100, 5_000, len(whole) // 2):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        assert_refused(settings_for(specs, path), tmp_path / "out", str(path), "damaged")
    path.write_bytes(whole[: len(whole) // 2])
    assert_refused(settings_for(specs, path), tmp_path / "out", str(path), "damaged")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.xz", "a.jsonl.zst", "a.jsonl.bz2", "a.parquet", "a.tsv"])
def test_bytes_that_are_no_such_file(specs, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\xff\xfe not what the name says \x00" * 9)
    assert_refused(settings_for(specs, path), tmp_path / "out", str(path))


def test_files_without_a_document(specs, tmp_path):
    import gzip

    for name, data in (
        ("a.jsonl", b""),
        ("b.jsonl", b"\n \n"),
        ("c.jsonl.gz", gzip.compress(b"")),
        ("d.jsonl.xz", b""),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        good = tmp_path / "good.jsonl"
        good.write_bytes(GOOD)
        inputs = settings_for(specs, good).inputs + settings_for(specs, path).inputs
        with pytest.raises(UserError, match=rf"{re.escape(str(path))}: (is empty|holds no document); leave it out"):
            build_shards(ShardSettings(inputs=inputs, **specs), tmp_path / "out", num_workers=1)
        assert not (tmp_path / "out").exists()


def test_the_same_input_twice(specs, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD)
    again = InputFile(path=str(tmp_path / "." / "a.jsonl"), language="deu_Latn")
    with pytest.raises(UserError, match=r"a\.jsonl: given twice"):
        ShardSettings(inputs=(*settings_for(specs, path).inputs, again), **specs)
    pair = InputFile(path=str(path), language="deu_Latn", text_field="y")
    ShardSettings(inputs=(*settings_for(specs, path).inputs, pair), **specs)


def test_outputs_that_cannot_be_written_are_told_before_the_work(specs, tmp_path, monkeypatch):
    path, file = tmp_path / "a.jsonl", tmp_path / "file"
    path.write_bytes(GOOD)
    file.write_text("")
    for output in (file, file / "below", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match=r"^--output=.*: cannot be written"):
            build_shards(settings_for(specs, path), output, num_workers=1)
    monkeypatch.chdir(tmp_path)
    for odd in ("with: colon", "hf:out", "~tilde"):
        assert build_shards(settings_for(specs, path), Path(odd), num_workers=1).num_samples == 1


def test_a_disk_that_fills_up_keeps_what_is_finished(specs, tmp_path, monkeypatch):
    import errno

    from mtllm_ds.data.shards import tar_shards
    from mtllm_ds.data.writing import chunks

    monkeypatch.setattr(chunks, "CHUNK_DOCUMENTS", 8)
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD * 200)
    source = settings_for(specs, path).inputs
    settings = ShardSettings(inputs=source, **specs, block_samples=8, shard_bytes=2_000)
    written = tar_shards._HashingFile.write
    budget = [25_000]

    def write(self, data):
        budget[0] -= len(data)
        if budget[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(self, data)

    monkeypatch.setattr(tar_shards._HashingFile, "write", write)
    assert_refused(settings, tmp_path / "out", "--output=", "No space left on device", "finished shards are kept")
    kept = sorted(tmp_path.glob("out/shard-*.tar"))
    assert kept
    assert not list(tmp_path.glob("out/.*.tmp"))
    monkeypatch.setattr(tar_shards._HashingFile, "write", written)
    assert build_shards(settings, tmp_path / "out", num_workers=1).num_samples == 200
