"""`prepare task` where training items come from elsewhere: English is read, and nothing else passes for another language."""

import pytest

from mtllm_ds.commands import prepare
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.errors import UserError
from tests.evaluation.items.test_items import write_card, write_parquet
from tests.fixtures.models import save_llama, save_mt_model

PAIR = {"premise": "the cell is empty", "hypothesis": "the cell has no text", "label": 0}
RACE = {"article": "the cell is empty", "question": "what is it?", "options": ["a", "b", "c", "d"], "answer": "C"}


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sides")
    return ["--encoder", save_mt_model(folder / "mt"), "--llm", save_llama(folder / "llm"), "--max-length", 64]


@pytest.fixture
def task(tmp_path, monkeypatch, sides):
    """Shards of the training items of a task of ours, which are below `tmp_path` in the layout of the hub."""
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for config, row in (("en", PAIR), ("all", RACE)):
        write_parquet(tmp_path / config / "train-00000-of-00001.parquet", [row])
    write_card(tmp_path, {config: {"train": f"{config}/train-*.parquet"} for config in ("en", "all")})

    def run(name, *more):
        arguments = [
            "--task",
            name,
            "--data",
            tmp_path,
            "--split",
            "train",
            *sides,
            "--output",
            tmp_path / "out",
            *more,
        ]
        prepare.main(["task", *map(str, arguments)])
        return Manifest.load(tmp_path / "out")

    return run


@pytest.mark.parametrize("name", ["americas_nli", "belebele"])
@pytest.mark.parametrize("languages", [(), ("--languages", "all")])
def test_a_training_source_is_read_as_english(task, name, languages):
    manifest = task(name, *languages)
    assert (manifest.languages, manifest.num_samples) == (("eng_Latn",), 1)


@pytest.mark.parametrize(("name", "code"), [("americas_nli", "ayr_Latn"), ("belebele", "deu_Latn")])
def test_a_training_source_has_no_other_language(task, tmp_path, name, code):
    with pytest.raises(UserError, match=f"task {name}: its train items are English, not '{code}'; ask for eng_Latn"):
        task(name, "--languages", code)
    assert not (tmp_path / "out").exists()
