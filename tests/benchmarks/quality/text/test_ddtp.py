"""The topic task from package descriptions: parsing, groups and splits on a small archive; the script on a stand-in for apt."""

import json
import lzma
import os
import subprocess
import sys

import pytest

from benchmarks.quality.text import ddtp
from benchmarks.quality.text.apt import Apt
from benchmarks.quality.text.fetch_ddtp import PINNED
from mtllm_ds.errors import UserError
from tests.fixtures.runs import REPOSITORY

SHARED = "A paragraph that is long enough to show that two packages are related to each other."


def stanza(name, section, md5, source=None):
    lines = [f"Package: {name}", f"Section: {section}", f"Description-md5: {md5}", "Depends: a,", " b"]
    return "\n".join(lines + ([f"Source: {source} (1.0)"] if source else []))


def translation(code, **entries):
    return "\n\n".join(
        f"Package: {md5}\nDescription-md5: {md5}\nDescription-{code}: {text}" for md5, text in entries.items()
    )


ENGLISH = translation(
    "en",
    m1="Editor of text\n Edits text\n and more.\n .\n  * fast\n  * small\n .\n Second.",
    m2="Player of sound\n Plays it.",
    m3="Plugin one of the player\n " + SHARED,
    m4="Plugin two of something\n " + SHARED,
    m5="Fonts\n Not a topic.",
    m6="A lone game\n Plays alone.",
    m7="Only a title",
    m9="Editor with buttons\n Has buttons.",
)
ARCHIVE = "\n\n".join(
    [
        stanza("edit", "editors", "m1", source="edit2"), stanza("play", "sound", "m2"), stanza("plug1", "non-free/sound", "m3"),
        stanza("plug2", "video", "m4"), stanza("fonts-x", "fonts", "m5"), stanza("solo", "games", "m6"),
        stanza("edit-gtk", "gnome", "m9", source="edit3"), stanza("bare", "games", "m7"),
    ]
)  # fmt: skip


@pytest.fixture
def packages():
    return ddtp.read_packages([ARCHIVE], ddtp.descriptions(ENGLISH))


def test_packages_of_the_topics_with_a_body(packages):
    topics = {name: package.topic for name, package in packages.items()}
    assert topics == {
        "edit": "text", "play": "audio_video", "plug1": "audio_video", "plug2": "audio_video", "solo": "games",
        "edit-gtk": "desktop",
    }  # fmt: skip
    assert packages["edit"].source == "edit2"
    assert packages["play"].source == "play"


def test_a_later_index_wins():
    older, newer = stanza("solo", "games", "m6"), stanza("solo", "text", "m6")
    english = ddtp.descriptions(ENGLISH)
    assert ddtp.read_packages([older, newer], english)["solo"].topic == "text"


def test_text_joins_wrapped_lines_and_keeps_verbatim_ones():
    english = ddtp.descriptions(ENGLISH)
    assert ddtp.plain_text(english["m1"]) == "Editor of text\nEdits text and more. * fast\n* small Second."
    assert ddtp.plain_text(f"Title\n {'x' * 900}") == "Title\n" + "x" * ddtp.MAX_BODY


def test_groups(packages):
    groups = ddtp.related_groups(packages.values())
    assert groups["edit"] == groups["edit-gtk"]  # sources edit2 and edit3
    assert groups["plug1"] == groups["plug2"]  # an equal rare paragraph
    assert len(set(groups.values())) == 4


def test_a_frequent_paragraph_relates_nothing():
    many = [
        ddtp.Package(f"p{chr(97 + n)}", f"p{chr(97 + n)}", "games", f"m{n}", f"Title {n}\n {SHARED}")
        for n in range(ddtp.RARE + 1)
    ]
    assert len(set(ddtp.related_groups(many).values())) == ddtp.RARE + 1
    assert len(set(ddtp.related_groups(many[1:]).values())) == 1


def test_what_is_near_a_test_item_is_not_trained_on(packages):
    german = ddtp.descriptions(translation("de", m2="Tonspieler\n Spielt.", m3="Zusatz\n Lang.", m6="Nur Titel"))
    pinned = {"plug1": {"deu_Latn"}, "edit": {"valid"}, "gone": {"eng_Latn"}, "solo": {"deu_Latn", "eng_Latn"}}
    files = ddtp.build(ddtp.split_packages(packages, pinned), {"deu_Latn": german}, pinned)
    names = {file: [row["package"] for row in rows] for file, rows in files.items()}
    assert names == {
        "train_eng_Latn": ["play"],
        "valid_eng_Latn": ["edit"],
        "test_eng_Latn": ["solo"],
        "test_deu_Latn": ["plug1"],
    }
    (row,) = files["test_deu_Latn"]
    assert row["text"] == "Zusatz\nLang."
    assert row["text_en"] == f"Plugin one of the player\n{SHARED}"
    assert row["label"] == "audio_video"


def test_validation_gives_way_to_the_test(packages):
    pinned = {"plug1": {"valid"}, "plug2": {"eng_Latn"}}
    files = ddtp.build(ddtp.split_packages(packages, pinned), {}, pinned)
    assert [row["package"] for row in files["test_eng_Latn"]] == ["plug2"]
    assert files["valid_eng_Latn"] == []
    groups = [{row["group"] for row in rows} for rows in files.values()]
    assert not groups[0] & groups[2]


def test_training_takes_no_text_twice_and_at_most_so_many_a_topic(monkeypatch):
    monkeypatch.setattr(ddtp, "MAX_TRAIN", 2)
    many = {
        f"p{c}": ddtp.Package(f"p{c}", f"p{c}", "games", f"m{c}", f"Game\n {'same' if c in 'ab' else c}")
        for c in "abcdef"
    }
    train = ddtp.build(ddtp.split_packages(many, {}), {}, {})["train_eng_Latn"]
    assert len(train) == 2
    assert len({row["text"] for row in train}) == 2


def test_boilerplate_that_holds_half_of_a_test_item_is_not_trained_on():
    common = " ".join(f"word{n}" for n in range(20))
    many = {
        name: ddtp.Package(name, name, "games", name, f"{title}\n {text}")
        for name, title, text in (("test", "A", common), ("near", "B", f"x {common} y z"), ("far", "C", "other words"))
    }
    splits = ddtp.split_packages(many, {"test": {"eng_Latn"}})
    assert [package.name for package in splits.free] == ["far"]


def test_equal_descriptions_are_related():
    same = [ddtp.Package(name, name, "games", "m", "Short\n text") for name in ("one", "two")]
    assert len(set(ddtp.related_groups(same).values())) == 1


def test_the_pinned_packages():
    pinned = ddtp.read_pinned(PINNED)
    sizes = {
        code: sum(code in kinds for kinds in pinned.values()) for code in ("valid", "eng_Latn", *ddtp.TRANSLATIONS)
    }
    assert sizes["valid"] == 878
    assert sizes["eng_Latn"] == 1000
    assert all(sizes[code] >= 120 for code in ddtp.TRANSLATIONS)
    assert all(kinds == {"valid"} for kinds in pinned.values() if "valid" in kinds)


STAND_IN = """#!/bin/sh
for option in "$@"; do case "$option" in Dir::State::Lists=*) lists="${option#*=}";; esac; done
cp "$SOURCE"/* "$lists"/
"""


def test_the_script_from_indices_to_files(tmp_path):
    for folder in ("bin", "source"):
        (tmp_path / folder).mkdir()
    program = tmp_path / "bin" / "apt-get"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    known = sorted(name for name, kinds in ddtp.read_pinned(PINNED).items() if "por_Latn" in kinds)[0]
    (tmp_path / "source" / "mirror_main_binary-amd64_Packages").write_text(
        "\n\n".join([ARCHIVE, stanza(known, "games", "m8")])
    )
    english = ENGLISH + "\n\n" + translation("en", m8="Some game\n Of Portugal.")
    (tmp_path / "source" / "mirror_main_i18n_Translation-en").write_text(english)
    (tmp_path / "source" / "mirror_main_i18n_Translation-pt%5fBR").write_text(
        translation("pt_BR", m8="Um jogo\n De Portugal.", m2="Tocador de som\n Toca.")
    )
    environment = {**os.environ, "SOURCE": str(tmp_path / "source"), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}

    def launch(*more):
        return subprocess.run(
            [sys.executable, "-m", "benchmarks.quality.text.fetch_ddtp", "--out", str(tmp_path / "out"), *more],
            cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    done = launch("--languages", "por_Latn")
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, (tmp_path / "out" / "test_por_Latn.jsonl").read_text().splitlines())
    assert (row["package"], row["text"], row["text_en"]) == (known, "Um jogo\nDe Portugal.", "Some game\nOf Portugal.")
    recorded = json.loads((tmp_path / "out" / "sources.json").read_text())
    assert set(recorded["indices"]) == {path.name for path in (tmp_path / "source").iterdir()}
    assert recorded["files"]["test_por_Latn.jsonl"]["items"] == 1
    assert {"parallel_por_Latn.tsv.xz", "documents_eng_Latn.jsonl.xz", "valid_por_Latn.jsonl"} < set(recorded["files"])
    with lzma.open(tmp_path / "out" / "parallel_por_Latn.tsv.xz", "rt") as lines:
        assert lines.read() == "Player of sound\tTocador de som\nPlays it.\tToca.\n"
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert set(before) == {*recorded["files"], "sources.json"}
    assert launch("--languages", "por_Latn").returncode == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()} == before

    failed = launch("--languages", "swe_Latn")
    assert failed.returncode == 2
    assert "no index _Translation-sv" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_without_apt(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get: is not installed"):
        Apt(tmp_path / "apt").run("apt-get", "update")


def test_pinned_file_reads_as_written(tmp_path):
    path = tmp_path / "pinned.tsv.xz"
    path.write_bytes(lzma.compress(b"a\tdeu_Latn,eng_Latn\nb\tvalid\n"))
    assert ddtp.read_pinned(path) == {"a": {"deu_Latn", "eng_Latn"}, "b": {"valid"}}
