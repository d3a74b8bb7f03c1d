"""Copy-masking against the documented rule, worked out by hand, also where words are not separated by spaces."""

import pytest

from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.items.items import Item
from mtllm_ds.evaluation.items.masking import copy_masked, in_setting, masked_translation, tokens, without_copies


def test_tokens():
    assert tokens("GIMP 2.10, x86-64 and don't_know read/write!") == [
        "gimp", "2.10", "x86-64", "and", "don't_know", "read/write",
    ]  # fmt: skip
    assert tokens("a - b_ _c") == ["a", "b", "c"]
    assert tokens("Öffnen déjà Tiếng Việt") == ["öffnen", "déjà", "tiếng", "việt"]
    assert tokens("GIMPで開く αβ") == ["gimp", "で開く", "αβ"]


def test_copies_are_dropped_from_both_sides():
    item = Item(
        "1",
        "g",
        "games",
        ("Öffnet LibreOffice Writer.",),
        original=Item("1", "g", "games", ("Opens libreoffice writer.",)),
    )
    masked = copy_masked(item)
    assert masked.segments == ("Öffnet .",)
    assert masked.original.segments == ("Opens .",)
    assert (masked.id, masked.group, masked.label) == ("1", "g", "games")


@pytest.mark.parametrize(
    ("foreign", "english", "left", "original"),
    [
        ("GIMPで画像を開く。", "Opens an image with GIMP.", "で画像を開く。", "Opens an image with ."),
        ("打开LibreOffice文档2", "Open document 2 of LibreOffice", "打开文档", "Open document of"),
    ],
)
def test_scripts_without_spaces(foreign, english, left, original):
    assert without_copies(foreign, english) == left
    assert without_copies(english, foreign) == original


@pytest.mark.parametrize("word", ["បើក", "เปิด", "Öffnen", "déjà", "de\u0301ja\u0300", "mở"])
def test_what_is_no_copy_stays_as_it_was_written(word):
    assert without_copies(f"{word}: PDF", "Open the PDF") == f"{word}:"
    assert without_copies(f"A {word} PDF", "Open the a PDF") == word
    assert without_copies("Open the PDF", f"{word} PDF") == "Open the"


def test_a_copy_inside_a_longer_word_stays():
    assert without_copies("déjà d'accord LibreOffice-Hilfe", "d j LibreOffice") == "déjà d'accord LibreOffice-Hilfe"


def test_a_text_that_is_all_copies_becomes_empty():
    assert without_copies("GIMP, gimp!", "About GIMP") == ""


def test_segments_and_options_are_masked_one_by_one():
    english = Item("1", "g", "1", ("The Alps", "Where?"), ("in Bern", "Alps"))
    foreign = Item("1", "g", "1", ("Die Alps", "Wo, the Alps?"), ("Bern", "die Alps"), english)
    masked = copy_masked(foreign)
    assert masked.segments == ("Die", "Wo, the Alps?")
    assert masked.options == ("", "die")
    assert masked.original.options == ("in", "")


def test_masking_after_translation_drops_what_the_source_copied():
    """`window` stands in the original too, but the source did not copy it: it is translated, so it stays."""
    found = masked_translation("Opens the window in GIMP", "Öffnet das Fenster in GIMP", "Opens a window of GIMP")
    assert found == "Opens the window in"


def test_mistakes():
    alone = Item("7", "g", "games", ("text",))
    assert in_setting([alone], "plain") == [alone]
    with pytest.raises(UserError, match="item 7: has no English original"):
        in_setting([alone], "copy_masked")
    with pytest.raises(UserError, match="differ in the number"):
        copy_masked(Item("7", "g", "games", ("a", "b"), original=alone))
