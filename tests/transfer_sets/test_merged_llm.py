"""A merged LLM has the states of the adapted one, says what it is not, and asks before its tokenizer's own code runs."""

import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, dynamic_module_utils

from mtllm_ds import MTLLM
from mtllm_ds.errors import UserError
from mtllm_ds.transfer_sets.merged_llm import write_merged
from tests.fixtures.exports import make_export
from tests.fixtures.own_code import give_own_tokenizer

TOPICS = {"name": "topics", "type": "classification", "labels": ["a", "b"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with `run` and `export` of an LLM with a head, LoRA untrained."""
    return make_export(tmp_path_factory.mktemp("made"), TOPICS, "llm").parent


def test_a_card_says_that_there_is_no_language_model_head(made, tmp_path):
    write_merged(made / "export", tmp_path / "merged")
    with safe_open(tmp_path / "merged" / "model.safetensors", "pt") as tensors:
        assert not [name for name in tensors.keys() if "lm_head" in name]  # noqa: SIM118 - no mapping
    write_merged(made / "export", tmp_path / "merged")  # an older one gives way
    with pytest.raises(UserError, match="exists and was not written by `mtllm-ds export`"):
        write_merged(made / "export", made / "llm")
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "no language-model head and generates no text" in card
    assert "attends in both directions" in card
    assert f"- LLM `{made / 'llm'}`: not stated" in card


def test_its_states_are_those_of_the_model_that_was_merged(made, tmp_path):
    write_merged(made / "run", tmp_path / "merged")
    adapted = MTLLM.from_pretrained(made / "export")
    ids = torch.tensor([adapted.ids(["Select the cells."], "eng_Latn")])
    merged = AutoModel.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        found = merged(ids).last_hidden_state.mean(1)
    torch.testing.assert_close(found, adapted.encode(["Select the cells."], "eng_Latn"), atol=1e-5, rtol=1e-5)


def test_a_tokenizer_s_own_code_needs_the_setting(tmp_path, monkeypatch):
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    made = make_export(tmp_path / "made", TOPICS, "llm").parent
    give_own_tokenizer(made / "llm")
    with pytest.raises(UserError, match=r"set model\.llm\.trust_remote_code=true"):
        write_merged(made / "export", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    config = json.loads((made / "export" / "config.json").read_text())
    config["bases"]["llm"]["trust_remote_code"] = True
    (made / "export" / "config.json").write_text(json.dumps(config))
    write_merged(made / "export", tmp_path / "merged")
    assert (tmp_path / "merged" / "tokenization_own.py").is_file()
