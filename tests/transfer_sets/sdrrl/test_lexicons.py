"""Lexicons from files, FreeDict and aligned text: words that can stand in another's place."""

import base64
import gzip
import sys

import pytest

from mtllm_ds.errors import UserError
from mtllm_ds.transfer_sets.sdrrl import lexicons
from mtllm_ds.transfer_sets.sdrrl.lexicons import aligned_lexicon, read_freedict, read_lexicon, usable


def test_only_words_with_a_short_other_translation_are_usable():
    pairs = {
        "House": "Casa",
        "ice cream": "helado",
        "no": "no",
        "the": "el que la",
        "3": "tres",
        "of": "de la",
        "x": "a1",
        "y": "",
        "dog": "कुत्ता",
        "cat": "ឆ្មា",
        "up": "a-b",
    }
    assert usable(pairs) == {"house": "casa", "of": "de la", "dog": "कुत्ता", "cat": "ឆ្មា", "up": "a-b"}


def test_a_file_is_read_line_by_line(tmp_path):
    path = tmp_path / "words.tsv.gz"
    path.write_bytes(gzip.compress(b"house\tcasa\tnoun\nhouse\thogar\nice cream\thelado\n"))
    assert read_lexicon(str(path)) == {"house": "casa"}
    path = tmp_path / "bad.tsv"
    path.write_text("house\tcasa\nred rojo\n")
    with pytest.raises(UserError, match=r"bad\.tsv, line 2: no tab"):
        read_lexicon(str(path))
    path.write_text("ice cream\thelado\n")
    with pytest.raises(UserError, match="no entry of one word can be used"):
        read_lexicon(str(path))
    with pytest.raises(UserError, match="no such file"):
        read_lexicon(str(tmp_path / "none.tsv"))


def number(value):
    digits = "".join(lexicons._BASE64[value >> shift & 63] for shift in (18, 12, 6, 0))
    assert int.from_bytes(base64.b64decode(digits), "big") == value  # dictd's digits are base64's
    return digits.lstrip("A") or "A"


def test_freedict_in_dictds_format(tmp_path, monkeypatch):
    entries = [
        ("dog", "dog /dɔg/\nperro\n"), ("book", "book /buk/\n1. libro\n2. pedir\n"), ("be able", "be able /x/\npoder\n"),
        ("run", "run /a/\ncorrer\n"), ("run", "run /b/\nhuir\n"), ("good", "good /gud/\namable, bonito\n"), ("bare", "bare\n"),
    ]  # fmt: skip
    text, index = b"", ""
    for word, entry in entries:
        index += f"{word}\t{number(len(text))}\t{number(len(entry.encode()))}\n"
        text += entry.encode()
    (tmp_path / "freedict-eng-spa.index").write_text(index, encoding="utf-8")
    (tmp_path / "freedict-eng-spa.dict.dz").write_bytes(gzip.compress(text))
    monkeypatch.setattr(lexicons, "DICTIONARIES", tmp_path)
    assert read_freedict("eng-spa") == {"dog": "perro", "book": "libro", "good": "amable"}
    with pytest.raises(UserError, match="apt-get install dict-freedict-eng-xyz"):
        read_freedict("eng-xyz")


ALIGNER = f"""#!{sys.executable}
import sys
names = dict(zip(sys.argv[1::2], sys.argv[2::2]))
rows = list(zip(open(names["-s"]), open(names["-t"]), strict=True))
for option in ("-f", "-r"):
    with open(names[option], "w") as out:
        for source, target in rows:
            links = [f"{{i}}-{{i}}" for i in range(min(len(source.split()), len(target.split())))]
            print(*(links if option == "-f" else links[:2]), file=out)
"""


def test_words_that_both_directions_align_and_agree_on(tmp_path, monkeypatch):
    program = tmp_path / "eflomal-align"
    program.write_text(ALIGNER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    pairs = [
        ("The dog!", "El perro"),
        ("The cat", "El gato"),
        ("the dog runs", "el perro corre"),
        ("a dog", "un can"),
        ("9", "9"),
    ]
    # `runs` is aligned one way only, `cat` and `a` once, `dog` with perro in two of three.
    assert aligned_lexicon(pairs) == {"the": "el", "dog": "perro"}


def test_without_eflomal_the_line_says_how(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="eflomal-align is not on the PATH; pip install eflomal"):
        aligned_lexicon([("a", "b")])
