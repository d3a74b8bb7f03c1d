"""Help text is read, paired and split as its cards say; the shipped sample keeps tests apart from training."""

import json
import lzma
import subprocess
from pathlib import Path

import pytest

from benchmarks.quality.text import fetch_help_text, folder_text
from benchmarks.quality.text.folder_text import LANGUAGES, fingerprint, read_jsonl
from mtllm_ds.errors import UserError

SAMPLE = Path(__file__).parents[4] / "assets" / "text"

PAGE = """<html><body><h1 id="hd_id1">Using <a href="x">Cells</a></h1><p>no id</p>
<p id="par_id2">Click <span>Format</span>
 now, please.</p><p id="par_id2">Click it once more.</p></body></html>"""


def segments(page: str) -> list:
    parser = fetch_help_text.Segments()
    parser.feed(page)
    return parser.found


def test_segments_are_paragraphs_and_headings_with_ids():
    assert segments(PAGE) == [
        (("hd_id1", 0), "h", "Using Cells"),
        (("par_id2", 0), "p", "Click Format now, please."),
        (("par_id2", 1), "p", "Click it once more."),
    ]


def test_pairs_follow_page_id_and_occurrence():
    foreign = PAGE.replace("Click it once more", "Noch einmal klicken").replace("Click", "Klick").replace("Using", "Zu")
    found = fetch_help_text.pairs({"a.html": segments(PAGE), "b.html": segments(PAGE)}, {"a.html": segments(foreign)})
    assert found == {
        "Click Format now, please.": "Klick Format now, please.",
        "Click it once more.": "Noch einmal klicken.",
    }  # two words are too few, what is not translated is no pair


def test_a_package_of_two_languages_gives_the_one_that_it_is_named_after(tmp_path):
    for language, text in (("zh-CN", "one"), ("zh-CN-other", "two")):
        folder = tmp_path / "deb" / "usr/share/libreoffice/help" / language / "text" / "swriter"
        folder.mkdir(parents=True)
        (folder / "a.html").write_text(f'<p id="par_1">{text}</p>')
    control = tmp_path / "deb" / "DEBIAN" / "control"
    control.parent.mkdir()
    control.write_text("Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x.x>\nDescription: x\n")
    subprocess.run(["dpkg-deb", "-b", str(tmp_path / "deb"), str(tmp_path / "x.deb")], check=True, capture_output=True)
    pages = fetch_help_text.read_pages(tmp_path / "x.deb", tmp_path / "work", "zh-cn")
    assert pages == {"swriter/a.html": [(("par_1", 0), "p", "one")]}


def test_fingerprint_folds_case_and_punctuation():
    assert fingerprint("  Click: HERE!") == fingerprint("click here")
    assert fingerprint("click here") != fingerprint("click there")


@pytest.fixture
def folder(tmp_path):
    items = {"train": "Words of training", "valid": "Words of validation", "test": "Words of the test"}
    for split, text in items.items():
        row = {"id": split, "group": split, "page": f"{split}.html", "label": "Calc", "text": text}
        (tmp_path / f"{split}_eng_Latn.jsonl").write_text(json.dumps(row) + "\n")
    german = {"id": "test", "group": "test", "label": "Calc", "text": "Wörter im Test", "text_en": items["test"]}
    (tmp_path / "test_deu_Latn.jsonl").write_text(json.dumps(german) + "\n")
    lines = "".join(f"{text}\t{text} (de)\n" for text in items.values()) + "Another English side\twörter: im TEST\n"
    (tmp_path / "parallel_deu_Latn.tsv.xz").write_bytes(lzma.compress(lines.encode()))
    pages = [{"page": f"{s}.html", "paragraphs": [{"kind": "p", "text": t}]} for s, t in items.items() if s != "test"]
    pages[0]["paragraphs"].append({"kind": "p", "text": "words of the TEST."})
    (tmp_path / "documents_eng_Latn.jsonl.xz").write_bytes(lzma.compress("\n".join(map(json.dumps, pages)).encode()))
    return tmp_path


def test_training_text_holds_no_test_and_no_validation_segment(folder):
    train, valid = folder_text.split_valid(folder, folder_text.read_parallel(folder, ("deu_Latn",)))
    assert train.english == ["Words of training"]
    assert valid.translations == [{"deu_Latn": "Words of validation (de)"}]
    train_pages, valid_pages = folder_text.read_documents(folder)
    assert [p["text"] for page in train_pages for p in page["paragraphs"]] == ["Words of training"]
    assert [page["page"] for page in valid_pages] == ["valid.html"]


def test_a_missing_folder_says_how_to_make_it(tmp_path):
    with pytest.raises(UserError, match="make help-text"):
        folder_text.read_parallel(tmp_path)


def test_no_test_item_stands_in_the_shipped_training_text():
    tested = {fingerprint(item["text"]) for item in read_jsonl(SAMPLE / "topics_test_eng_Latn.jsonl.xz")}
    assert len(tested) > 400
    names = ["stage1_train_eng_Latn", "stage1_valid_eng_Latn", "topics_train_eng_Latn", "topics_valid_eng_Latn"]
    for name in names:
        assert not [r for r in read_jsonl(SAMPLE / f"{name}.jsonl.xz") if fingerprint(r["text"]) in tested], name
    for code in LANGUAGES:
        assert not [r for r in read_jsonl(SAMPLE / f"parallel_{code}.jsonl.xz") if fingerprint(r["text_en"]) in tested]
        assert len(read_jsonl(SAMPLE / f"topics_test_{code}.jsonl.xz")) == 454


def test_stage1_pages_of_training_and_validation_differ():
    pages = [{r["page"] for r in read_jsonl(SAMPLE / f"stage1_{s}_eng_Latn.jsonl.xz")} for s in ("train", "valid")]
    assert pages[0]
    assert pages[1]
    assert not pages[0] & pages[1]
