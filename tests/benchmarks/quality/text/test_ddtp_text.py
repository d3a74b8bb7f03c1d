"""Text around the topic task: aligned segments, validation pairs and documents on a small archive; nothing near a test item."""

import json
import lzma

import pytest

from benchmarks.quality.text import folder_text
from benchmarks.quality.text.ddtp import Package, Splits, split_packages
from benchmarks.quality.text.ddtp_text import documents, parallel, validation_pairs

ENGLISH = "Editor of text\n It edits text. It also saves\n it.\n .\n Second paragraph."
GERMAN = "Texteditor\n Er bearbeitet Text. Er speichert\n ihn auch.\n .\n Zweiter Absatz."


def package(name, description=ENGLISH, topic="text", md5=None):
    return Package(name, name, topic, md5 or name, description)


def test_titles_paragraphs_and_sentences_are_paired():
    assert parallel([package("a")], {"a": GERMAN}) == {
        "Editor of text": "Texteditor",
        "It edits text. It also saves it.": "Er bearbeitet Text. Er speichert ihn auch.",
        "It edits text.": "Er bearbeitet Text.",
        "It also saves it.": "Er speichert ihn auch.",
        "Second paragraph.": "Zweiter Absatz.",
    }


def test_a_paragraph_more_leaves_only_the_title():
    assert parallel([package("a")], {"a": GERMAN + "\n .\n Dritter."}) == {"Editor of text": "Texteditor"}


def test_what_is_not_translated_is_no_pair():
    assert parallel([package("a"), package("b")], {"a": ENGLISH}) == {}


def test_a_side_of_an_unlikely_length_is_no_translation():
    others = {f"p{n}": (f"Some game {n}", f"Ein Spiel {n}") for n in range(20)}
    packages = [package(name, f"{e}\n x") for name, (e, _) in others.items()] + [package("odd", "Some other game\n x")]
    translations = {name: f"{g}\n x" for name, (_, g) in others.items()} | {"odd": f"{'Viel zu lang ' * 5}\n x"}
    found = parallel(packages, translations)
    assert len(found) == 20
    assert "Some other game" not in found


def test_of_two_translations_the_first_stays():
    both = {"a": "Eins\n x", "b": "Zwei\n x"}
    packages = [package(name, "The one\n x") for name in both]
    assert parallel(packages, both) == {"The one": "Eins"}


def test_validation_pairs_are_whole_items():
    splits = Splits([], [package("a"), package("b")], [], {"a": "g", "b": "h"})
    (row,) = validation_pairs(splits, {"a": GERMAN, "b": "Nur Titel"})
    assert row["text_en"].startswith("Editor of text\nIt edits")
    assert row["text"].startswith("Texteditor\nEr bearbeitet")


def test_documents_hold_what_is_free_and_for_validation_by_group():
    packages = {p.name: p for p in (package("free", "Free one\n x"), package("tested"), package("v", "Valid one\n x"))}
    packages["near"] = Package("near", "tested1", "text", "near", "Near it\n x")  # a source of the same name
    splits = split_packages(packages, {"tested": {"deu_Latn"}, "v": {"valid"}})
    assert [p.name for p in splits.free] == ["free"]
    assert [page["page"] for page in documents(splits)] == [splits.groups["free"], splits.groups["v"]]


@pytest.fixture
def folder(tmp_path):
    def items(name, *rows):
        (tmp_path / name).write_text("".join(json.dumps({"group": "g", "label": "x"} | row) + "\n" for row in rows))

    items("valid_eng_Latn.jsonl", {"text": "Valid\nitem", "group": "v"})
    items("test_eng_Latn.jsonl", {"text": "Tested one"})
    items("test_deu_Latn.jsonl", {"text": "Getestet zwei", "text_en": "Tested two"})
    items(
        "valid_deu_Latn.jsonl",
        {"text": "Gültiges\nDing", "text_en": "Valid\nitem"},
        {"text": "getestet ZWEI", "text_en": "Other"},
        {"text": "Anderes", "text_en": "tested one"},
    )
    pairs = [("A pair", "Ein Paar"), ("Tested two", "Noch etwas"), ("tested ONE!", "Und noch etwas")]
    lines = "".join(f"{english}\t{german}\n" for english, german in pairs)
    (tmp_path / "parallel_deu_Latn.tsv.xz").write_bytes(lzma.compress(lines.encode()))
    pages = [{"page": page, "paragraphs": [{"kind": "p", "text": f"Text of {page}"}]} for page in ("v", "w")]
    (tmp_path / "documents_eng_Latn.jsonl.xz").write_bytes(lzma.compress("\n".join(map(json.dumps, pages)).encode()))
    return tmp_path


def test_a_folder_may_bring_validation_pairs_of_its_own(folder):
    train, valid = folder_text.split_valid(folder, folder_text.read_parallel(folder, ("deu_Latn",)))
    assert train.english == ["A pair"]
    assert (valid.english, valid.translations) == (["Valid\nitem"], [{"deu_Latn": "Gültiges\nDing"}])


def test_english_originals_of_any_language_are_kept_out(folder):
    assert folder_text.read_parallel(folder, ("deu_Latn",)).english == ["A pair"]


def test_groups_of_validation_items_are_validation_documents(folder):
    train, valid = folder_text.read_documents(folder)
    assert [page["page"] for page in train] == ["w"]
    assert [page["page"] for page in valid] == ["v"]
