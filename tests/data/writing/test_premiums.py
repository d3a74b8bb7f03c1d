"""Byte premiums against counting by hand, and as the table that a run reads."""

import json
import lzma

import numpy as np
import pytest

from mtllm_ds.commands import run_command
from mtllm_ds.config.data import MixingSettings
from mtllm_ds.data.writing.premiums import measure_premiums
from mtllm_ds.data.writing.sources import InputFile
from mtllm_ds.errors import UserError
from tests.fixtures.runs import REPOSITORY

TEXT = REPOSITORY / "assets" / "text"
CODES = ("deu_Latn", "khm_Khmr")


def source(code, **changes):
    fields = {"path": str(TEXT / f"parallel_{code}.jsonl.xz"), "language": code, "second_text_field": "text_en"}
    return InputFile(**(fields | changes))


def bytes_of(code):
    with lzma.open(TEXT / f"parallel_{code}.jsonl.xz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return np.array([(len(row["text"].strip().encode()), len(row["text_en"].strip().encode())) for row in rows])


def test_premiums_are_those_of_counting():
    found = measure_premiums(source(code) for code in CODES)
    for code in CODES:
        pairs = bytes_of(code)
        assert found[code].num_pairs == len(pairs)
        assert found[code].premium == pytest.approx(pairs[:, 0].sum() / pairs[:, 1].sum())
    assert 2 < found["khm_Khmr"].premium < 4


def test_the_standard_error_is_that_of_drawing_pairs():
    pairs = bytes_of("khm_Khmr")
    rng = np.random.default_rng(0)
    drawn = pairs[rng.integers(0, len(pairs), (3000, len(pairs)))].sum(1)
    spread = (drawn[:, 0] / drawn[:, 1]).std()
    assert measure_premiums([source("khm_Khmr")])["khm_Khmr"].standard_error == pytest.approx(spread, rel=0.1)


def test_a_run_reads_the_table(tmp_path, capsys):
    path = tmp_path / "premiums.json"
    files = [f"{code}={TEXT}/parallel_{code}.jsonl.xz" for code in CODES]
    assert run_command(["prepare", "premiums", "--input", *files, "--output", str(path)]) == 0
    assert "khm_Khmr" in capsys.readouterr().out
    mixing = MixingSettings(rule="balanced", byte_premiums=str(path))
    assert mixing.byte_premiums["eng_Latn"] == 1
    assert mixing.byte_premiums["khm_Khmr"] == pytest.approx(
        measure_premiums([source("khm_Khmr")])["khm_Khmr"].premium, abs=1e-6
    )


def test_mistakes_are_one_line(tmp_path):
    german = f"deu_Latn={TEXT}/parallel_deu_Latn.jsonl.xz"
    with pytest.raises(UserError, match="is a folder; name a file"):
        run_command(["prepare", "premiums", "--input", german, "--output", str(tmp_path)])
    with pytest.raises(UserError, match="is English, whose premium is 1"):
        measure_premiums([source("deu_Latn", language="eng_Latn")])
    single = tmp_path / "one.jsonl"
    single.write_text('{"text": "a", "text_en": "b"}\n')
    with pytest.raises(UserError, match="has one pair of deu_Latn"):
        measure_premiums([source("deu_Latn", path=str(single))])
    single.write_text('{"text": "a", "text_en": ""}\n')
    with pytest.raises(UserError, match="holds no pair"):
        measure_premiums([source("deu_Latn", path=str(single))])
