"""Labelled shards: what is stored equals the encoder of items; the launcher tells what is wrong in one line."""

import json
import shutil

import pytest
import yaml

from mtllm_ds.data.shards.blocks import concatenate_blocks
from mtllm_ds.data.shards.manifest import Manifest, TaskEntry
from mtllm_ds.data.shards.tar_shards import read_block, verify_shards
from mtllm_ds.data.stream.stream import EvalStream
from mtllm_ds.data.text.task_encoding import fit_item
from mtllm_ds.data.text.tokenization import load_text_tokenizer
from mtllm_ds.data.writing.tasks import TaskRow, TaskShardSettings, build_task_shards
from mtllm_ds.errors import UserError
from tests.data.conftest import sentences
from tests.data.test_prepare_launcher import assert_one_line, prepare

CHOICE = TaskEntry("choose", "multiple_choice", ("1", "2", "3", "4"))
TOPICS = TaskEntry("topics", "classification", ("a", "b", "c"))


def choice_rows(count):
    texts = sentences(6 * count, seed=3)
    rows = []
    for i in range(count):
        passage, question, *options = (text[: 60 if n < 2 else 12] for n, text in enumerate(texts[6 * i : 6 * i + 6]))
        num = 3 + i % 2
        rows.append(TaskRow((passage, question), (*options[: num - 1], options[0]), i % num, "eng_Latn"))
    return rows


def topic_rows(count, language="eng_Latn"):
    return [TaskRow((text,), (), i % 3, language) for i, text in enumerate(sentences(count, seed=4))]


def build(folder, rows, task, specs, **options):
    return build_task_shards(rows, TaskShardSettings(task=task, **specs, **options), folder)


@pytest.mark.parametrize("task", [CHOICE, TOPICS])
def test_columns_are_what_the_encoder_of_items_says(tmp_path, specs, task):
    rows = choice_rows(40) if task is CHOICE else [*topic_rows(50), *topic_rows(20, "deu_Latn")]
    manifest = build(tmp_path / "shards", rows, task, specs, block_samples=8)
    assert manifest.task == task
    verify_shards(manifest)
    sides = [load_text_tokenizer(specs[side]) for side in ("encoder", "llm")]
    expected = set()
    for row in rows:
        encoder, llm = fit_item(sides, row.segments, row.options, row.language, [128, 128]).sides
        assert len(encoder.ids) <= 128
        expected.add(
            (tuple(encoder.ids), tuple(llm.ids), *map(tuple, (encoder.choice_spans, llm.choice_spans)), row.label)
        )
    columns = concatenate_blocks([read_block(manifest, block) for block in range(manifest.num_blocks)])
    names = ["encoder_choice_spans", "llm_choice_spans"] if task is CHOICE else []
    stored = set()
    for i in range(len(rows)):
        spans = [tuple(map(tuple, columns[name][i].tolist())) for name in names] or [(), ()]
        ids = (tuple(columns[name][i].tolist()) for name in ("encoder_ids", "llm_ids"))
        stored.add((*ids, *spans, int(columns["label"][i])))
    assert stored == expected
    # Shuffled, so that a file sorted by label gives no batch of one label.
    assert columns["label"].tolist() != [row.label for row in rows]


def test_batches_carry_labels_and_spans_padded_with_empty_ones(tmp_path, specs):
    manifest = build(tmp_path / "shards", choice_rows(11), CHOICE, specs)
    batch = next(iter(EvalStream(manifest, batch_size=11)))
    assert batch.extras["label"].tolist() == read_block(manifest, 0)["label"].tolist()
    spans = batch.extras["encoder_choice_spans"]
    assert spans.shape == (11, 4, 2)
    stored = read_block(manifest, 0)["encoder_choice_spans"]
    for row in range(11):
        own = stored[row]
        assert spans[row, : len(own)].tolist() == own.tolist()
        assert spans[row, len(own) :].eq(0).all()
        assert (own[:, 0] < own[:, 1]).all()


def test_the_same_again_is_left_alone_and_another_is_refused(tmp_path, specs):
    first = build(tmp_path / "shards", topic_rows(20), TOPICS, specs)
    assert build(tmp_path / "shards", topic_rows(20), TOPICS, specs).hash == first.hash
    with pytest.raises(UserError, match="other settings or inputs"):
        build(tmp_path / "shards", topic_rows(21), TOPICS, specs)


def test_manifests_without_a_task_are_read(dataset_copy):
    path = dataset_copy / "manifest.json"
    content = json.loads(path.read_text())
    del content["task"]
    path.write_text(json.dumps(content))
    assert Manifest.load(dataset_copy).task is None


@pytest.fixture
def task_file(tmp_path):
    folder = tmp_path / "items"
    folder.mkdir()
    rows = [{"text": f"the cells {i} of the table", "label": "ab"[i % 2]} for i in range(30)]
    (folder / "train_eng_Latn.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "valid_eng_Latn.jsonl").write_text("")
    task = {
        "name": "two", "type": "classification", "labels": ["a", "b"], "languages": ["eng_Latn", "deu_Latn"],
        "source": {"folder": str(folder), "fields": {"segments": ["text"]}},
    }  # fmt: skip
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(task))
    return path


@pytest.fixture
def sides(tokenizer_folders):
    return ["--encoder", tokenizer_folders["encoder"], "--llm", tokenizer_folders["llm"], "--max-length", 32]


def test_the_launcher(tmp_path, task_file, sides):
    output = tmp_path / "out"
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "items", moved)
    arguments = ["--task", task_file, "--data", moved, *sides, "--train-items", 20, "--output", output]
    result = prepare("task", *arguments, "--split", "train")
    assert result.returncode == 0, result.stderr
    manifest = Manifest.load(output)
    assert (manifest.num_samples, manifest.task) == (20, TaskEntry("two", "classification", ("a", "b")))
    assert manifest.languages == ("eng_Latn",)


def test_bad_input_is_one_line(tmp_path, task_file, sides):
    def tell(task, *arguments, split="train"):
        return prepare("task", "--task", task, "--split", split, *sides, "--output", tmp_path / "out", *arguments)

    assert_one_line(tell("ddtp_topix"), "--task=ddtp_topix: no such task", "ddtp_topics")
    assert_one_line(tell(task_file, split="valid"), "valid split of eng_Latn is empty")
    assert_one_line(tell(task_file, "--languages", "deu_Latn"), "train_deu_Latn.jsonl", "no such file")
    assert_one_line(tell(task_file, "--train-items", "0"), "--train-items: '0' is no whole number of at least 1")
    content = yaml.safe_load(task_file.read_text())
    content["source"]["splits"] = {"test": "test"}
    task_file.write_text(yaml.safe_dump(content))
    assert_one_line(tell(task_file), "it has no train split")
    del content["source"]["splits"]
    task_file.write_text(yaml.safe_dump(content | {"labels": ["a", "c"]}))
    assert_one_line(tell(task_file), "label 'b' is not one of the task's")
    assert not (tmp_path / "out").exists()
