"""Translated tasks keep what is not translated, mask as the protocol says, and load again as tasks."""

from pathlib import Path

from mtllm_ds.evaluation.items.items import Item, load_items
from mtllm_ds.evaluation.items.masking import tokens
from mtllm_ds.evaluation.items.tasks import load_task
from mtllm_ds.evaluation.items.translated import (
    chrf,
    read_in_english,
    round_trip,
    share_of,
    some_of,
    translated,
    write_task,
)
from tests.fixtures.tasks import save_task


def backwards(texts):
    """A language in which every word is written from its end."""
    return [" ".join(word[::-1] for word in text.split()) for text in texts]


def test_fields_are_translated_one_by_one():
    item = Item("1", "g", "2", ("ab cd", "ef"), ("gh", "", "ij kl"))
    (found,) = translated([item], backwards)
    assert found.segments == ("ba dc", "fe")
    assert found.options == ("hg", "", "ji lk")
    assert (found.id, found.group, found.label) == ("1", "g", "2")


def test_masking_before_and_after_translation():
    original = Item("1", "g", "x", ("LibreOffice opens Calc",))
    item = Item("1", "g", "x", ("oeffnet LibreOffice jetzt",), original=original)
    copied = "LibreOffice".lower()
    (plain,) = read_in_english([item], backwards, "plain")
    (before,) = read_in_english([item], backwards, "masked_before")
    (after,) = read_in_english([item], lambda texts: [f"{t} now LibreOffice" for t in texts], "masked_after")
    assert plain.segments == ("tenffeo eciffOerbiL tztej",)
    assert before.segments == ("tenffeo tztej",)
    assert copied not in tokens(after.segments[0])
    assert after.segments == ("oeffnet jetzt now",)


def test_a_round_trip_goes_through_one_language_each():
    items = [Item(str(number), "g", "x", (f"word{number}",)) for number in range(40)]
    found = round_trip(items, ["deu_Latn", "fra_Latn"], lambda code: lambda texts: [f"{text} {code}" for text in texts])
    assert [item.segments[0].split()[0] for item in found] == [f"word{number}" for number in range(40)]
    through = [item.segments[0].split()[1] for item in found]
    assert through == [share_of(item, ["deu_Latn", "fra_Latn"]) for item in items]
    assert 10 < through.count("deu_Latn") < 30


def test_some_items_differ_by_language_and_keep_their_order():
    items = [Item(str(number), "g", "x", ("word",)) for number in range(40)]
    german, french = some_of(items, 10, "deu_Latn"), some_of(items, 10, "fra_Latn")
    assert [len(german), len(french)] == [10, 10]
    assert german == [item for item in items if item in german]
    assert german != french
    assert german == some_of(items, 10, "deu_Latn")
    assert some_of(items, None, "deu_Latn") == items


def test_a_written_task_is_read_again(tmp_path):
    task = load_task(str(save_task(tmp_path / "task", 12)))
    german = translated(load_items(task, "test", "deu_Latn"), backwards)
    written = load_task(str(write_task(tmp_path / "new", task, {("test", "deu_Latn"): german})))
    assert written.facts == task.facts
    assert [(i.id, i.label, i.segments) for i in load_items(written, "test", "deu_Latn")] == [
        (i.id, i.label, i.segments) for i in german
    ]


def test_a_task_in_another_language_says_how_it_is_read(tmp_path):
    """Its languages keep their names and places in tables: only the tag is another."""
    proxies = {"languages": ["eng_Latn", "deu_Latn", "khm_Khmr", "tar_Latn"], "tag_proxies": {"tar_Latn": "spa_Latn"}}
    task = load_task(str(save_task(tmp_path / "task", 12, **proxies)))
    german = load_items(task, "test", "deu_Latn")
    items = {("test", "deu_Latn"): german, ("test", "tar_Latn"): german}
    read_as = {"deu_Latn": "eng_Latn", "tar_Latn": "eng_Latn"}
    written = load_task(str(write_task(tmp_path / "new", task, items, read_as)))
    assert [written.tag_of(code) for code in written.languages] == ["eng_Latn", "eng_Latn", "khm_Khmr", "eng_Latn"]
    assert written.facts == task.facts
    again = load_task(str(write_task(tmp_path / "more", written, {("test", "deu_Latn"): german})))
    assert again.tag_of("deu_Latn") == "deu_Latn"


def test_english_of_a_training_source_becomes_a_language_of_the_written_task(tmp_path):
    """AmericasNLI has no English test items, but English training items."""
    source = {"folder": str(tmp_path / "task"), "fields": {"segments": ["text"], "id": ["id"]}}
    path = save_task(tmp_path / "task", 12, languages=["deu_Latn"], training_source=source)
    task = load_task(str(path))
    items = {("train", code): load_items(task, "train") for code in ("eng_Latn", "deu_Latn")}
    written = load_task(str(write_task(tmp_path / "new", task, items)))
    assert written.select(["eng_Latn"], "train") == ("eng_Latn",)
    assert written.select(["all"], "train") == ("deu_Latn", "eng_Latn")
    assert len(load_items(written, "train")) == 12


def test_chrf_of_equal_and_of_other_texts():
    assert chrf(["Open the file."], ["Open the file."]) == 100.0
    assert chrf(["zzz"], ["Open the file."]) == 0.0


def test_a_written_task_is_found_from_any_folder(tmp_path, monkeypatch):
    task = load_task(str(save_task(tmp_path / "task", 12)))
    items = {("test", "deu_Latn"): load_items(task, "test", "deu_Latn")}
    monkeypatch.chdir(tmp_path)
    written = tmp_path / write_task(Path("new"), task, items)
    monkeypatch.chdir(tmp_path / "task")
    assert len(load_items(load_task(str(written)), "test", "deu_Latn")) == 12
