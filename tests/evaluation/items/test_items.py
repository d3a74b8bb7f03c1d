"""Items from local folders: JSON lines as our scripts write them, and data sets in the layout of the hub."""

import json
import lzma
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.items.items import load_items
from mtllm_ds.evaluation.items.tasks import load_task

FOLDER = Path(__file__).parents[3] / "launchers" / "tasks"


@pytest.fixture(autouse=True)
def _private_cache(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def write_card(folder, configs):
    """A hub data set's README: which files are which configuration and split."""
    lines = ["---", "configs:"]
    for name, splits in configs.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        for split, path in splits.items():
            lines += [f"  - split: {split}", f"    path: {path}"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def write_parquet(path, rows, class_names=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    if class_names:
        features = {name: {"dtype": "string", "_type": "Value"} for name in table.column_names}
        features["label"] = {"names": class_names, "_type": "ClassLabel"}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path)


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.suffix == ".xz":
        path.write_bytes(lzma.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")


def row(number, label="games", **more):
    return {"id": f"i{number}", "group": f"g{number // 2}", "label": label, "text": f"Text {number}", **more}


@pytest.fixture
def local(tmp_path):
    jsonl(tmp_path / "train_eng_Latn.jsonl", [row(n) for n in range(20)])
    jsonl(tmp_path / "test_eng_Latn.jsonl", [row(n) for n in range(4)])
    jsonl(tmp_path / "test_jpn_Jpan.jsonl.xz", [row(n, text="日本語", text_en=f"Text {n}") for n in (2, 3)])
    return load_task("ddtp_topics").located(str(tmp_path))


def test_local_folder_plain_and_compressed(local):
    english, japanese = load_items(local, "test"), load_items(local, "test", "jpn_Jpan")
    assert [item.id for item in english] == ["i0", "i1", "i2", "i3"]
    assert english[0].original is None
    assert english[0].group == english[1].group != english[2].group
    assert japanese[0].segments == ("日本語",)
    assert japanese[0].original.segments == ("Text 2",)
    assert japanese[0].group == english[2].group


def test_a_limit_draws_the_same_items_again(local):
    some = [item.id for item in load_items(local, "train", limit=5, seed=3)]
    assert some == [item.id for item in load_items(local, "train", limit=5, seed=3)]
    assert len(set(some)) == 5
    assert some != [item.id for item in load_items(local, "train", limit=5, seed=4)]
    assert len(load_items(local, "train", limit=100)) == 20


def test_mistakes_in_local_data(local, tmp_path):
    with pytest.raises(UserError, match=r"test_deu_Latn\.jsonl: no such file"):
        load_items(local, "test", "deu_Latn")
    jsonl(tmp_path / "test_fra_Latn.jsonl", [])
    with pytest.raises(UserError, match="the test split of fra_Latn is empty"):
        load_items(local, "test", "fra_Latn")
    jsonl(tmp_path / "test_ita_Latn.jsonl", [row(0), row(1, label="gmaes")])
    with pytest.raises(UserError, match=r"line 2: label 'gmaes' is not one of the task's \(admin, "):
        load_items(local, "test", "ita_Latn")
    (tmp_path / "test_spa_Latn.jsonl").write_text('{"id": 1\n')
    with pytest.raises(UserError, match="line 1: not JSON"):
        load_items(local, "test", "spa_Latn")
    jsonl(tmp_path / "test_por_Latn.jsonl", [{"id": "a", "group": "b", "label": "games"}])
    with pytest.raises(UserError, match="no field 'text'"):
        load_items(local, "test", "por_Latn")


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_id_that_stands_twice_is_told_with_both_places(local, tmp_path, split):
    path = tmp_path / f"{split}_eng_Latn.jsonl"
    jsonl(path, [row(0), row(1), row(2), row(1)])
    with pytest.raises(UserError) as caught:
        load_items(local, split)
    told = f"task ddtp_topics, {path}, line 4: id 'i1' stands at {path}, line 2 too; give each item an id of its own"
    assert str(caught.value).startswith(told)


def test_an_english_id_that_stands_twice_is_told_where_it_is_joined(local, tmp_path):
    jsonl(tmp_path / "test_eng_Latn.jsonl", [row(2), row(2)])
    aligned = local.model_copy(update={"source": local.source.model_copy(update={"aligned": True})})
    with pytest.raises(UserError, match=r"test_eng_Latn\.jsonl, line 2: id 'i2' stands at"):
        load_items(aligned, "test", "jpn_Jpan")


def test_xnli_groups_by_the_english_premise(tmp_path):
    names = ["entailment", "neutral", "contradiction"]
    english = [{"premise": f"P{n // 3}", "hypothesis": f"H{n}", "label": n % 3} for n in range(6)]
    german = [{"premise": f"V{n // 3}", "hypothesis": f"F{n}", "label": n % 3} for n in range(6)]
    for config, rows in (("en", english), ("de", german)):
        for split in ("train", "validation", "test"):
            write_parquet(tmp_path / config / f"{split}-00000-of-00001.parquet", rows, names)
    splits = ("train", "validation", "test")
    write_card(tmp_path, {c: {s: f"{c}/{s}-*.parquet" for s in splits} for c in ("en", "de")})
    task = load_task("xnli").located(str(tmp_path))
    items = load_items(task, "test", "deu_Latn")
    assert [item.label for item in items[:3]] == names
    assert items[4].segments == ("V1", "F4")
    assert items[4].original.segments == ("P1", "H4")
    groups = [item.group for item in items]
    assert groups[0] == groups[2] != groups[3]
    assert groups == [item.group for item in load_items(task, "test", "eng_Latn")]
    assert len(load_items(task, "valid")) == 6
    with pytest.raises(UserError, match=r"data set .* fr, split test"):
        load_items(task, "test", "fra_Latn")


def test_americas_nli_trains_on_xnli(tmp_path):
    write_parquet(tmp_path / "a/aym/test-00000-of-00001.parquet", [{"premise": "p", "hypothesis": "h", "label": 2}])
    write_card(tmp_path / "a", {"aym": {"test": "aym/test-*.parquet"}})
    write_parquet(tmp_path / "x/en/train-00000-of-00001.parquet", [{"premise": "a", "hypothesis": "b", "label": 0}])
    write_card(tmp_path / "x", {"en": {"train": "en/train-*.parquet"}})
    task = load_task("americas_nli").located(str(tmp_path / "a"), str(tmp_path / "x"))
    (item,) = load_items(task, "test", "ayr_Latn")
    assert (item.label, item.original) == ("contradiction", None)
    assert load_items(task, "train")[0].label == "entailment"
    with pytest.raises(UserError, match="split validation: Unknown split"):
        load_items(task, "valid")


def belebele_row(link, number, text, answer):
    options = {f"mc_answer{n}": f"{text} {n}" for n in range(1, 5)}
    return {
        "link": link, "question_number": number, "flores_passage": text, "question": f"{text}?", **options,
        "correct_answer_num": answer, "dialect": "x", "ds": "2023-05-03",
    }  # fmt: skip


def test_belebele_joins_by_link_and_number(tmp_path):
    jsonl(tmp_path / "b/data/eng_Latn.jsonl", [belebele_row("u1", 1, "one", "1"), belebele_row("u1", 2, "two", "4")])
    jsonl(tmp_path / "b/data/hin_Latn.jsonl", [belebele_row("u1", 2, "do", "4"), belebele_row("u1", 1, "ek", "1")])
    write_card(tmp_path / "b", {c: {"test": f"data/{c}.jsonl"} for c in ("eng_Latn", "hin_Latn")})
    race = {"example_id": "h.txt", "article": "A", "answer": "C", "question": "Q", "options": ["a", "b", "c", "d"]}
    write_parquet(tmp_path / "r/all/train-00000-of-00001.parquet", [race])
    write_card(tmp_path / "r", {"all": {"train": "all/train-*.parquet"}})
    task = load_task("belebele").located(str(tmp_path / "b"), str(tmp_path / "r"))
    first, second = load_items(task, "test", "hin_Latn")
    assert task.tag_of("hin_Latn") == "hin_Deva"
    assert first.options == ("do 1", "do 2", "do 3", "do 4")
    assert (first.label, first.original.segments, first.original.options[3]) == ("4", ("two", "two?"), "two 4")
    assert first.group == second.group
    (trained,) = load_items(task, "train")
    assert (trained.label, trained.options) == ("3", ("a", "b", "c", "d"))
    with pytest.raises(UserError, match=r"data set .*nowhere all, split train: .*; name a local folder instead"):
        load_items(load_task("belebele").located(training_data=str(tmp_path / "nowhere")), "train")


def test_nusax_reads_folders_without_a_card(tmp_path):
    for config, text in (("eng", "good"), ("bbc", "denggan")):
        rows = [{"id": n, "text": f"{text} {n}", "lang": config, "label": n % 3} for n in (5, 3)]
        for split in ("train", "test"):
            write_parquet(tmp_path / config / split / "0000.parquet", rows, ["negative", "neutral", "positive"])
    task = load_task("nusax_senti").located(str(tmp_path))
    items = load_items(task, "test", "bbc_Latn")
    assert [(item.id, item.label, item.original.segments[0]) for item in items] == [
        ("5", "positive", "good 5"),
        ("3", "negative", "good 3"),
    ]


def test_sib_reads_tab_separated_files(tmp_path):
    for code, text in (("eng_Latn", 'The "river" rose'), ("nqo_Nkoo", "ߒߞߏ")):
        folder = tmp_path / "data" / code
        folder.mkdir(parents=True)
        quoted = '"' + text.replace('"', '""') + '"'
        (folder / "test.tsv").write_text(
            f"index_id\tcategory\ttext\n7\tscience/technology\t{quoted}\n", encoding="utf-8"
        )
    write_card(tmp_path, {c: {"test": f"data/{c}/test.tsv"} for c in ("eng_Latn", "nqo_Nkoo")})
    task = load_task("sib200").located(str(tmp_path))
    (item,) = load_items(task, "test", "nqo_Nkoo")
    assert (item.id, item.label, item.segments) == ("7", "science/technology", ("ߒߞߏ",))
    assert item.original.segments == ('The "river" rose',)


def test_a_hub_that_cannot_be_reached_is_one_line():
    with pytest.raises(UserError) as caught:
        load_items(load_task("sib200"), "test", "deu_Latn")
    assert "name a local folder instead" in str(caught.value)
    assert "\n" not in str(caught.value)
