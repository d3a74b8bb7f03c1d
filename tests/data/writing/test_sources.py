import gzip
import json
import lzma

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from mtllm_ds.data.writing.sources import Document, InputFile, SourceReader
from mtllm_ds.errors import UserError

ROWS = [("eng_Latn", "the cells ", 1), ("deu_Latn", "die Zellen", 0)]
DOCUMENTS = [Document((text.strip(),), language, label) for language, text, label in ROWS]


def write(path, text):
    data = text.encode()
    pack = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
    path.write_bytes(pack(data))
    return str(path)


def read(path, **fields):
    return list(SourceReader(InputFile(path=path, **fields)))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.xz", "a.jsonl.zst"])
def test_json_lines(tmp_path, name):
    text = "".join(json.dumps({"lang": code, "body": text, "y": y}) + "\n\n" for code, text, y in ROWS)
    path = write(tmp_path / name, text)
    assert read(path, language_field="lang", text_field="body", label_field="y", labels=("0", "1")) == DOCUMENTS


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.xz"])
def test_tab_separated_with_and_without_header(tmp_path, name):
    body = "".join(f"{code}\t{text}\t{y}\n" for code, text, y in ROWS)
    path = write(tmp_path / name, body)
    assert read(path, language_field="1", text_field="2", label_field="3", labels=("0", "1")) == DOCUMENTS
    path = write(tmp_path / f"b{name}", "lang\tbody\ty\n" + body)
    assert read(path, language_field="lang", text_field="body", label_field="y", labels=("0", "1")) == DOCUMENTS


def test_parquet(tmp_path):
    columns = {"lang": [r[0] for r in ROWS], "body": [r[1] for r in ROWS], "y": [r[2] for r in ROWS]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    assert (
        read(str(tmp_path / "a.parquet"), language_field="lang", text_field="body", label_field="y", labels=("0", "1"))
        == DOCUMENTS
    )


def test_pairs_and_one_language_for_all(tmp_path):
    path = write(tmp_path / "a.tsv", "one\ttwo\n")
    assert read(path, language="en", text_field="1", second_text_field="2") == [Document(("one", "two"), "eng_Latn")]


@pytest.mark.parametrize(
    ("name", "text", "fields", "message"),
    [
        ("a.jsonl", "", {}, "is empty"),
        ("a.jsonl", '{"text": "x"}\n{oops\n', {}, "line 2: not JSON"),
        ("a.jsonl", "[1]\n", {}, "line 1: not a JSON object"),
        ("a.jsonl", '{"body": "x"}\n', {}, "line 1: no field 'text'; there are 'body'"),
        ("a.jsonl", '{"text": 3}\n', {}, "the text in 'text' is not a string but int"),
        ("a.tsv", "x\n", {"text_field": "2"}, "line 1: no field '2'"),
        ("a.tsv", "some words\n", {}, "line 1: no field 'text'; there are 'some words'; .* columns by number"),
        ("a.csv", "x\n", {}, "cannot tell the format"),
        (
            "a.jsonl",
            '{"text": "x", "lang": "ell_Latn"}\n',
            {"language": None, "language_field": "lang"},
            "line 1: .*ell_Grek",
        ),
        ("a.parquet", "not parquet at all", {}, "not a Parquet file"),
        (
            "a.jsonl",
            '{"text": "x", "y": "z"}\n',
            {"label_field": "y", "labels": ("0",)},
            "line 1: the label .z. is none of --labels 0",
        ),
    ],
)
def test_bad_input_is_told_by_file_and_line(tmp_path, name, text, fields, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read(str(path), **({"language": "eng_Latn"} | fields))


def test_a_truncated_archive_is_told(tmp_path):
    path = tmp_path / "a.jsonl.xz"
    path.write_bytes(lzma.compress(b'{"text": "x"}\n' * 9)[:-20])
    with pytest.raises(UserError, match=": damaged"):
        read(str(path), language="eng_Latn")


def test_the_language_must_be_given_exactly_once():
    with pytest.raises(UserError, match="ell_Grek"):
        InputFile(path="x", language="ell_Latn")
    with pytest.raises(UserError, match="not clear"):
        InputFile(path="x")


def test_another_encoding_is_told_with_its_line(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes("\ufefffirst\nGrüße\n".encode("utf-8") + "Grüße\n".encode("latin-1"))
    documents = iter(SourceReader(InputFile(path=str(path), language="deu_Latn", text_field="1")))
    assert [next(documents).segments for _ in range(2)] == [("first",), ("Grüße",)]
    with pytest.raises(UserError, match=r"line 3: not UTF-8 .*; convert the file"):
        next(documents)
