"""GGUF folders: unpacked at load, with a word about it; the same model and tokenizer as in safetensors."""

import pytest
import torch

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.models.loading import load_config, load_llm, weights_fingerprint
from tests.fixtures.gguf_files import qwen2, save_gguf
from tests.fixtures.tokenizers import TEXT


def states(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


@pytest.mark.parametrize(("quantized", "tolerance"), [(False, 1e-5), (True, 3e-2)])
def test_a_gguf_folder_gives_the_states_of_its_model(tmp_path, quantized, tolerance):
    folder = save_gguf(tmp_path, quantized)
    with pytest.warns(UserWarning, match=r"model\.gguf is unpacked to dense weights") as caught:
        model = load_llm(LLMSettings(name=str(folder), bidirectional=False), "sdpa", torch.float32).eval()
    assert sum("unpacked" in str(warning.message) for warning in caught) == 1
    assert type(model).__name__ == "Qwen2Model"
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    ids = torch.randint(2, 400, (2, 7), generator=torch.Generator().manual_seed(0))
    truth = states(qwen2().model, ids)
    torch.testing.assert_close(states(model, ids), truth, atol=tolerance * float(truth.abs().max()), rtol=0)
    model.save_pretrained(tmp_path / "saved")


def test_its_tokenizer_and_its_fingerprint_are_read_from_the_file(tmp_path):
    folder = save_gguf(tmp_path)
    ours = load_text_tokenizer(TokenizerSpec(name=str(folder), side="llm"))
    plain = load_text_tokenizer(TokenizerSpec(name=str(folder / "tokenizer"), side="llm"))
    for text in TEXT[:3]:
        assert ours([text], None) == plain([text], None)
    before = weights_fingerprint(str(folder), None)
    data = bytearray((folder / "model.gguf").read_bytes())
    data[-1] ^= 1
    (folder / "model.gguf").write_bytes(data)
    assert weights_fingerprint(str(folder), None) != before


def test_two_files_or_no_reader_of_them_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "a.gguf").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="a GGUF file needs the package gguf; pip install"):
        load_config(str(tmp_path), None, False, "model.llm.name")
    (tmp_path / "b.gguf").touch()
    with pytest.raises(UserError, match=r"holds several GGUF files \(a\.gguf, b\.gguf\); leave one"):
        load_config(str(tmp_path), None, False, "model.llm.name")
