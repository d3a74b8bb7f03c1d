"""The borrowed head on worlds whose answers are known: a perfect student, a deaf one, and a linear one."""

import json
import re

import numpy as np
import pytest
from rich.console import Console

from benchmarks.quality.vectors import borrowed_head as bh
from benchmarks.quality.vectors.borrowed_head_report import write_report

WIDTH, CLASSES = 12, ("Calc", "Draw", "Writer")


class World:
    """Texts are numbers as strings; the LLM's English vector of a text is a fixed random point near its class's centre."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.centres = {label: rng.normal(size=WIDTH) for label in CLASSES}
        self.mixing = rng.normal(size=(WIDTH, WIDTH))

    def label(self, text):
        return CLASSES[int(text.split("-")[-1]) % len(CLASSES)]

    def meaning(self, texts):
        number = [int(text.split("-")[-1]) for text in texts]
        noise = np.stack([np.random.default_rng(n).normal(size=WIDTH) for n in number])
        return np.stack([self.centres[self.label(t)] for t in texts]) + 0.2 * noise

    def llm(self, texts, code):
        if code == "eng_Latn":
            return self.meaning(texts)
        return np.stack([np.random.default_rng(hash_of(t)).normal(size=WIDTH) for t in texts])

    def encoder(self, texts, code):
        if code == "gaz_Latn":  # which it does not know
            return self.llm(texts, code)
        return self.meaning(texts) @ self.mixing + 3.0

    def items(self, numbers, code="eng_Latn"):
        english = [f"en-{n}" for n in numbers]
        texts = english if code == "eng_Latn" else [f"{code}-{n}" for n in numbers]
        return bh.LabelledTexts(texts, [self.label(t) for t in texts], english)

    def evaluate(self, mtllm, codes=("deu_Latn", "eng_Latn")):
        embed = bh.Embedders(
            stack=lambda texts, code: (mtllm(texts, code), self.encoder(texts, code)),
            llm=self.llm,
            encoder=self.encoder,
        )
        tests = {code: self.items(range(500, 590), code) for code in codes}
        train = [f"en-{n}" for n in range(300)]
        return bh.borrowed_head(
            embed,
            self.items(range(300)),
            self.items(range(300, 360)),
            tests,
            train,
            [f"en-{n}" for n in range(400, 450)],
        )


def hash_of(text):
    return sum(ord(c) * 31**i for i, c in enumerate(text)) % 2**32


@pytest.fixture(scope="module")
def perfect():
    world = World()
    return world.evaluate(lambda texts, code: world.meaning(texts))


def test_perfect_student_reads_like_the_originals(perfect):
    row = perfect["languages"]["deu_Latn"]
    assert row["mtllm"] == row["originals"] > 0.95
    assert row["llm"] < 0.6
    assert row["retrieval"] == row["encoder_retrieval"] == 1.0
    assert row["n"] == 90
    assert perfect["fvu"] == 0.0
    assert perfect["gap_closed"] == pytest.approx(1.0)
    assert perfect["chance"] == pytest.approx(1 / 3)


def test_linear_encoder_is_solved_by_the_ridge(perfect):
    assert perfect["ridge_fvu"] < 1e-6
    row = perfect["languages"]["deu_Latn"]
    assert row["ridge_retrieval"] == 1.0
    assert row["llm_retrieval"] < 0.1
    assert row["ridge"] == row["originals"]


def test_a_language_that_the_encoder_does_not_know_is_told(tmp_path):
    world = World()
    codes = ("deu_Latn", "eng_Latn", "gaz_Latn")
    result = world.evaluate(lambda texts, code: world.llm(texts, code if code == "gaz_Latn" else "eng_Latn"), codes)
    assert bh.unknown_languages(result["languages"]) == ["gaz_Latn"]
    console = Console(record=True, width=140)
    write_report(result, tmp_path, "A world of numbers", console)
    shown = console.export_text()
    assert re.search(r"gaz_Latn\* .* 0% ", shown)
    assert re.search(r"deu_Latn .* 100% ", shown)
    # The mean has both languages; without the unknown one everything is closed.
    assert re.search(rf"mean of 2 .* {result['gap_closed']:.0%} ", shown)
    assert 0 < result["gap_closed"] < 1
    assert "closed without them: 100%." in shown


class WorldOfNames(World):
    """Each item begins with a name that its translation copies, and the encoder reads nothing but an item's first word."""

    def encoder(self, texts, code):
        return np.stack([np.random.default_rng(hash_of(text.split()[0])).normal(size=WIDTH) for text in texts])

    def items(self, numbers, code="eng_Latn"):
        plain = super().items(numbers, code)
        texts, english = (
            [f"Name{n} {t}" for n, t in zip(numbers, side, strict=True)] for side in (plain.texts, plain.english)
        )
        return bh.LabelledTexts(texts, plain.labels, english)


def test_to_find_copied_names_is_not_to_know_a_language():
    world = WorldOfNames()
    rows = world.evaluate(world.llm)["languages"]
    assert rows["deu_Latn"]["encoder_retrieval"] < 0.1
    assert rows["eng_Latn"]["encoder_retrieval"] == 1.0
    assert bh.unknown_languages(rows) == ["deu_Latn"]


def test_deaf_student_gains_nothing():
    world = World()
    result = world.evaluate(world.llm)
    assert result["languages"]["deu_Latn"]["mtllm"] == result["languages"]["deu_Latn"]["llm"]
    assert result["gap_closed"] == 0.0
    assert result["languages"]["deu_Latn"]["retrieval"] < 0.1


def test_an_offset_of_the_student_does_not_touch_retrieval():
    world = World()
    assert world.evaluate(lambda texts, code: world.meaning(texts) + 50.0)["languages"]["deu_Latn"]["retrieval"] == 1.0


def test_fvu_is_of_the_targets_variance():
    target = np.random.default_rng(1).normal(size=(200, 3)) * [1.0, 2.0, 3.0] + 5.0
    assert bh.fvu(np.broadcast_to(target.mean(0), target.shape), target) == pytest.approx(1.0)
    assert bh.fvu(target + 1.0, target) == pytest.approx(3 / target.var(0).sum())
    assert bh.fvu(2 * target, target) != pytest.approx(bh.fvu(target, 2 * target))


def test_retrieval_counts_equal_texts_as_found():
    cosines = np.array([[0.1, 0.9], [0.2, 0.8]])
    assert bh.retrieval_accuracy(cosines, ["a", "b"]) == 0.5
    assert bh.retrieval_accuracy(cosines, ["a", "a"]) == 1.0


def test_report_writes_table_and_picture_and_prints_examples(perfect, tmp_path):
    console = Console(record=True, width=120)
    write_report(perfect, tmp_path / "report", "A world of numbers", console)
    table = json.loads((tmp_path / "report" / "table.json").read_text())
    assert set(table) == {"deu_Latn", "eng_Latn"}
    assert set(table["deu_Latn"]) == {
        "mtllm", "llm", "ridge", "originals", "retrieval", "llm_retrieval", "ridge_retrieval", "encoder_retrieval", "n",
    }  # fmt: skip
    assert (tmp_path / "report" / "table.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["deu_Latn/retrieval"] == table["deu_Latn"]["retrieval"]
    assert summary["fvu"] == perfect["fvu"]
    assert all(type(value) in (int, float) for value in summary.values())
    assert len(json.loads((tmp_path / "report" / "examples.json").read_text())) == len(perfect["examples"])
    shown = console.export_text()
    assert "deu_Latn-530" in shown
    assert "1. +1.00  en-530 (its original)" in shown
    assert "closed: 100%" in shown
