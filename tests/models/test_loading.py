"""Base models: every weight accounted for, and one clear line for what cannot be loaded."""

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.errors import UserError
from mtllm_ds.models.loading import choose_attention, load_config, load_llm, weights_fingerprint
from tests.fixtures.models import save_llama, save_mt_model
from tests.fixtures.own_code import give_own_model

BERT_SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 100,
}  # fmt: skip


def test_an_encoder_decoder_is_no_llm(tmp_path):
    with pytest.raises(UserError, match=r"m2m_100 is an encoder-decoder"):
        load_llm(LLMSettings(name=str(save_mt_model(tmp_path))), "sdpa", torch.float32)


def test_a_frozen_llm_has_no_dropout_of_its_own(tmp_path):
    torch.manual_seed(0)
    theirs = transformers.BertModel(transformers.BertConfig(**BERT_SIZES)).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_llm(LLMSettings(name=str(tmp_path), bidirectional=True), "sdpa", torch.float32).train()
    ids = torch.randint(4, 100, (2, 7))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).last_hidden_state, theirs(ids).last_hidden_state)


def test_missing_weights_are_named(tmp_path):
    save_llama(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"missing keys.*up_proj"):
        load_llm(LLMSettings(name=str(tmp_path)), "sdpa", torch.float32)


def test_no_such_model_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"model\.llm\.name=.*nowhere") as caught:
        load_llm(LLMSettings(name=str(tmp_path / "nowhere")), "sdpa", torch.float32)
    assert "\n" not in str(caught.value)


def test_the_fingerprint_tells_weights_apart(tmp_path):
    first, same, other = (save_llama(tmp_path / name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert weights_fingerprint(str(first), None) == weights_fingerprint(str(same), None)
    assert weights_fingerprint(str(first), None) != weights_fingerprint(str(other), None)


def test_the_fingerprint_is_of_the_files_that_are_loaded(tmp_path):
    whole, sharded = save_llama(tmp_path / "whole"), save_llama(tmp_path / "sharded")
    before = weights_fingerprint(str(whole), None)
    (whole / "consolidated.safetensors").write_bytes(b"another layout of the same weights")
    assert weights_fingerprint(str(whole), None) == before
    transformers.LlamaForCausalLM.from_pretrained(sharded).save_pretrained(sharded, max_shard_size="20KB")
    (sharded / "model.safetensors").unlink()
    shards = sorted(sharded.glob("model-*.safetensors"))
    assert len(shards) > 1
    first = weights_fingerprint(str(sharded), None)
    data = bytearray(shards[-1].read_bytes())
    data[-1] ^= 1
    shards[-1].write_bytes(data)
    assert weights_fingerprint(str(sharded), None) not in (first, before)
    shards[0].unlink()
    with pytest.raises(UserError, match="its weights cannot be read"):
        weights_fingerprint(str(sharded), None)


def test_a_folder_without_weights_has_no_fingerprint(tmp_path):
    model = save_llama(tmp_path)
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds no weights in safetensors"):
        weights_fingerprint(str(model), None)


def test_code_of_its_own_runs_only_where_it_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    name = str(give_own_model(save_llama(tmp_path / "llm")))
    with pytest.raises(UserError, match=r"of its own; set model\.llm\.trust_remote_code=true if you trust it$"):
        load_llm(LLMSettings(name=name), "sdpa", torch.float32)
    with pytest.raises(UserError, match="of its own; name a model that transformers knows"):
        load_config(name, None, False, "MT model ")
    assert type(load_llm(LLMSettings(name=name, trust_remote_code=True), "sdpa", torch.float32)).__name__ == "OwnModel"


def test_attention_auto_takes_what_is_there():
    assert choose_attention("auto", torch.device("cpu"), torch.float32) == "sdpa"
    with pytest.raises(UserError, match=r"model\.attention=flash_attention_2"):
        choose_attention("flash_attention_2", torch.device("cpu"), torch.bfloat16)
