"""Columns are described once: type and padding of a batch follow from that, and what nobody reads or describes is refused."""

import json
import re

import numpy as np
import pytest
import torch

from mtllm_ds.data import columns
from mtllm_ds.data.columns import CHOICE_SPANS, Column, check_columns, column_named, register
from mtllm_ds.data.shards.blocks import Ragged
from mtllm_ds.data.shards.tar_shards import read_block
from mtllm_ds.data.shards.targets import TopK, choice_columns, pooled_columns, top_k_columns
from mtllm_ds.data.stream.collate import Collator, Sample
from mtllm_ds.data.writing.builder import build_shards
from mtllm_ds.data.writing.settings import ShardSettings
from mtllm_ds.data.writing.sources import InputFile
from mtllm_ds.errors import UserError

COLLATE = Collator(pad_ids={"encoder": 1, "llm": 0})


def batch_of(**extra):
    ids = Ragged.from_rows([[5, 6], [7]], np.uint16)
    block = {"encoder_ids": ids, "llm_ids": ids, **extra}
    return COLLATE([[Sample(block, row, 0, row) for row in range(2)]])


@pytest.fixture
def mask_column(monkeypatch):
    monkeypatch.setattr(columns, "_COLUMNS", dict(columns._COLUMNS))
    column = Column(name="response_mask", per="token", dtype="bool", fill=False, writer="mtllm-ds prepare answers")
    register(column)
    return column


def test_a_mask_is_filled_with_false_and_spans_and_pairs_with_what_they_say(mask_column):
    ragged = {
        "response_mask": Ragged.from_rows([[1, 0], [1]], np.uint8),
        "token_pairs": Ragged.from_rows([np.array([[0, 1], [1, 0]]), np.array([[0, 0]])], np.int32),
        "llm_choice_spans": Ragged.from_rows([np.array([[0, 1], [1, 2]]), np.array([[0, 1]])], np.int32),
    }
    extras = batch_of(**ragged).extras
    assert extras["response_mask"].tolist() == [[True, False], [True, False]]
    assert extras["token_pairs"].tolist() == [[[0, 1], [1, 0]], [[0, 0], [-1, -1]]]
    assert extras["llm_choice_spans"].tolist() == [[[0, 1], [1, 2]], [[0, 1], [0, 0]]]


def test_types_are_those_described_whatever_lies_on_disk():
    extras = batch_of(label=np.array([1, 0], np.uint8), teacher_pooled=np.ones((2, 3), np.float16)).extras
    assert (extras["label"].dtype, extras["teacher_pooled"].dtype) == (torch.int64, torch.float32)


def test_an_unknown_column_is_refused_by_name():
    with pytest.raises(UserError, match="a column 'answers' that this code does not know; prepare it anew"):
        batch_of(answers=np.zeros(2))
    with pytest.raises(UserError, match="whose column is called 'label' now"):
        column_named("labels")


def test_every_writer_writes_described_columns():
    top = TopK(ids=torch.zeros(2, 1).long(), log_probs=torch.zeros(2, 1), log_tail_mass=torch.zeros(2))
    written = {
        *pooled_columns(torch.zeros(1, 2)),
        *choice_columns([torch.zeros(1, 2)]),
        *top_k_columns([top], 5),
        *CHOICE_SPANS.values(),
    }
    assert all(column_named(name).name == name for name in written)


def test_what_is_missing_and_what_nobody_reads_is_told_in_one_line():
    ids = ["encoder_ids", "llm_ids"]
    check_columns([*ids, "label"], ["label"], where="data.train=d", reader="objective.name=task_tuning")
    check_columns([*ids, "label"], [], where="d", reader="o", may_read=["label"])
    check_columns([*ids, "label"], [], where="d", reader="o", left_aside=["label"])
    with pytest.raises(
        UserError, match=r"data.train=d: has no column 'label', which o reads; add it by mtllm-ds prepare task"
    ):
        check_columns(ids, ["label"], where="data.train=d", reader="o")
    with pytest.raises(UserError, match="d: holds 'label', 'token_pairs', which o never reads"):
        check_columns([*ids, "token_pairs", "label"], [], where="d", reader="o")


def test_labels_by_name_make_shards_of_a_task(specs, tmp_path):
    rows = [{"text": "a b", "topic": "sport"}, {"text": "c d", "topic": "art"}, {"text": "e", "topic": "sport"}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = InputFile(path=str(file), language="eng_Latn", label_field="topic", labels=("art", "sport"))
    manifest = build_shards(ShardSettings(inputs=(source,), **specs), tmp_path / "out", num_workers=1)
    assert (manifest.task.name, manifest.task.type, manifest.task.labels) == (
        "topic",
        "classification",
        ("art", "sport"),
    )
    assert read_block(manifest, 0)["label"].tolist() == [1, 0, 1]


@pytest.mark.parametrize("value", [1.0, 1.7, True, "1_0", 2**40, None, "Sport", [1], float("inf")])
def test_what_is_no_label_is_told_with_its_line(specs, tmp_path, value):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": "x", "y": y}) + "\n" for y in (1, value)))
    source = InputFile(path=str(file), language="eng_Latn", label_field="y", labels=("0", "1", "sport"))
    with pytest.raises(
        UserError, match=f"{re.escape(str(file))}, line 2: the label .* is none of --labels 0, 1, sport"
    ):
        build_shards(ShardSettings(inputs=(source,), **specs), tmp_path / "out", num_workers=1)


def test_a_label_field_needs_its_labels():
    with pytest.raises(UserError, match="--label-field and --labels belong together"):
        InputFile(path="x", language="eng_Latn", label_field="y")
    with pytest.raises(UserError, match="a label stands twice"):
        InputFile(path="x", language="eng_Latn", label_field="y", labels=("a", "a"))
