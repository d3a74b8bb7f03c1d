"""An export replaces an older export and nothing else; a tokenizer's own code runs only where it is trusted."""

import shutil
from dataclasses import replace

import pytest
import torch
from transformers import dynamic_module_utils

from mtllm_ds import MTLLM
from mtllm_ds.checkpoint import export
from mtllm_ds.checkpoint.model import trained_from_run
from mtllm_ds.errors import UserError
from tests.fixtures.exports import make_export
from tests.fixtures.models import save_llama
from tests.fixtures.own_code import give_own_tokenizer


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with `run` and `export`, never changed by a test."""
    return make_export(tmp_path_factory.mktemp("made")).parent


def test_a_model_in_the_way_is_refused_and_keeps_every_file(made, tmp_path):
    model = save_llama(tmp_path / "llama")
    before = contents(model)
    with pytest.raises(UserError, match=r"llama: exists and is not an export; choose another folder"):
        export.export_run(made / "run", model)
    assert contents(model) == before


@pytest.mark.parametrize("config", ['{"format": 2, "model_type": "llama"}', "[]", "not JSON"])
def test_another_program_s_folder_is_refused(made, tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match="is not an export"):
        export.export_run(made / "run", tmp_path)
    assert (tmp_path / "config.json").read_text() == config


def test_a_file_in_the_way_is_refused(made, tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UserError, match="is not an export"):
        export.export_run(made / "run", tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "mine"


def test_an_older_export_and_an_empty_folder_give_way(made, tmp_path):
    older = shutil.copytree(made / "export", tmp_path / "older")
    (older / "head.safetensors").write_text("of an older run")
    (tmp_path / "empty").mkdir()
    for folder in (older, tmp_path / "empty"):
        export.export_run(made / "run", folder)
        assert contents(folder) == contents(made / "export")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "older"]


def test_a_base_model_is_no_export(made):
    with pytest.raises(
        UserError,
        match=r"llm: its config\.json is not of an export but of a model of transformers, which loads that",
    ):
        export.read_export(made / "llm")


def test_a_tokenizer_s_own_code_runs_only_where_it_is_trusted(tmp_path, monkeypatch):
    made = make_export(tmp_path / "made").parent
    expected = MTLLM.from_pretrained(made / "export").encode_with_llm(["Select the cells."])
    give_own_tokenizer(made / "llm")
    with pytest.raises(UserError, match=r"brings code of its own; set model\.llm\.trust_remote_code=true"):
        export.export_run(made / "run", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    trained = trained_from_run(made / "run")
    llm = trained.model.llm.model_copy(update={"trust_remote_code": True})
    trusting = replace(trained, model=trained.model.model_copy(update={"llm": llm}))
    monkeypatch.setattr(export, "trained_from_run", lambda run, step: trusting)
    export.export_run(made / "run", tmp_path / "export")
    model = MTLLM.from_pretrained(tmp_path / "export")
    assert type(model._tokenizers["llm"]._tokenizer).__name__ == "OwnTokenizer"
    assert torch.equal(model.encode_with_llm(["Select the cells."]), expected)
