"""Output heads against the logits of transformers: every tested family, tied or not, with biases, caps, scales and transforms."""

import dataclasses

import pytest
import torch
from torch import nn

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.errors import UserError
from mtllm_ds.models.head_parts import read_head
from mtllm_ds.models.head_probe import HeadProbe, probe_head
from mtllm_ds.models.lm_head import load_output_head
from mtllm_ds.models.loading import load_config, load_llm
from mtllm_ds.models.readers import LLMReader
from tests.fixtures.gguf_files import qwen2, save_gguf
from tests.models.families import LLMS, Family

_LLM = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
_ENCODER = {**_LLM, "embedding_size": 16}
OTHERS = {
    family.title: family
    for family in (
        Family("Cohere", "CohereForCausalLM", "CohereConfig", {**_LLM, "logit_scale": 0.0625}),
        Family("Granite", "GraniteForCausalLM", "GraniteConfig", {**_LLM, "logits_scaling": 8.0}),
        Family("Falcon-H1", "FalconH1ForCausalLM", "FalconH1Config", {**_LLM, "lm_head_multiplier": 0.3}),
        Family("Phi", "PhiForCausalLM", "PhiConfig", _LLM),
        Family(
            "GPT-J",
            "GPTJForCausalLM",
            "GPTJConfig",
            {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 64},
        ),
        Family("ALBERT", "AlbertForMaskedLM", "AlbertConfig", _ENCODER, note="an encoder"),
        Family("ELECTRA", "ElectraForMaskedLM", "ElectraConfig", _ENCODER, note="an encoder"),
    )
}
FAMILIES = {**LLMS, **OTHERS}
BOTH = ("Llama 2, 3", "Gemma 2", "Gemma 3", "Mistral Small 3", "OPT", "Phi", "Cohere", "BERT", "XLM-R", "ModernBERT")
IDS = torch.tensor([[5, 9, 6, 7, 8], [3, 4, 9, 5, 5]])


def tied_or_not(family, tied):
    """The family with its embeddings tied, or with a head of its own."""
    settings = {**family.settings, "tie_word_embeddings": tied}
    if "text_config" in settings:
        settings["text_config"] = {**settings["text_config"], "tie_word_embeddings": tied}
    return dataclasses.replace(family, settings=settings)


def saved(family, folder):
    """The whole model, no weight of its head zero, written to a folder."""
    whole = family.whole()
    torch.manual_seed(1)
    for name, parameter in whole.named_parameters():
        if parameter.ndim == 1 and ("head" in name or "cls." in name or "decoder.bias" in name):
            nn.init.normal_(parameter)
    whole.save_pretrained(folder)
    return whole


def load(folder, encoder=False):
    settings = LLMSettings(name=str(folder), bidirectional=encoder)
    reader = LLMReader(load_llm(settings, "sdpa", torch.float32)).eval()
    return reader, load_output_head(settings, reader, torch.float32)


def agree(family, folder):
    whole = saved(family, folder)
    reader, head = load(folder, family.note.startswith("an encoder"))
    mask = torch.ones_like(IDS)
    with torch.no_grad():
        states = reader.llm(input_ids=IDS, attention_mask=mask).last_hidden_state
        truth = whole(input_ids=IDS, attention_mask=mask).logits
        torch.testing.assert_close(head(states), truth, atol=1e-5, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in head.parameters())
    return reader, head


@pytest.mark.parametrize("title", FAMILIES)
def test_the_logits_are_those_of_transformers(title, tmp_path):
    agree(FAMILIES[title], tmp_path)


@pytest.mark.parametrize("title", BOTH)
@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_the_table_of_embeddings_itself(title, tied, tmp_path):
    reader, head = agree(tied_or_not(FAMILIES[title], tied), tmp_path)
    table = reader.trained_model.get_input_embeddings().weight
    assert (head.weight is table) == tied
    assert all(head.weight is not other for other in head.transform.parameters())


def test_a_table_that_trains_is_copied(tmp_path):
    saved(tied_or_not(LLMS["Llama 2, 3"], True), tmp_path)
    settings = LLMSettings(name=str(tmp_path), bidirectional=False)
    reader = LLMReader(load_llm(settings, "sdpa", torch.float32).requires_grad_(True))
    head = load_output_head(settings, reader, torch.float32)
    table = reader.trained_model.get_input_embeddings().weight
    assert table.requires_grad
    assert not head.weight.requires_grad
    assert torch.equal(head.weight, table)
    assert head.weight.data_ptr() != table.data_ptr()


def test_nothing_but_the_head_is_read(tmp_path):
    whole = saved(LLMS["Phi 3"], tmp_path)
    settings = LLMSettings(name=str(tmp_path), bidirectional=False)
    parts = read_head(settings, load_config(str(tmp_path), None, False, "name"), torch.bfloat16)
    assert parts.weight is not None
    assert parts.weight.dtype == torch.bfloat16
    assert torch.equal(parts.weight, whole.lm_head.weight.bfloat16())
    assert not list(parts.transform.parameters())


def test_a_head_in_a_gguf_file(tmp_path):
    with pytest.warns(UserWarning, match="is unpacked to dense weights"):
        _, head = load(save_gguf(tmp_path))
    torch.testing.assert_close(head.weight.data, qwen2().lm_head.weight.data)


@pytest.mark.parametrize(
    ("title", "changed", "expected"),
    [
        ("Gemma 2", {}, HeadProbe(1.0, 30.0)),
        ("Gemma 3 text", {"final_logit_softcapping": 5.0}, HeadProbe(1.0, 5.0)),
        ("Granite", {"logits_scaling": 16.0}, HeadProbe(1 / 16, None)),
        ("Cohere", {"logit_scale": 0.25}, HeadProbe(0.25, None)),
        ("Llama 2, 3", {"logit_scale": 7.0, "softcap": 2.0}, HeadProbe(1.0, None)),
    ],
)
def test_scale_and_cap_are_measured(title, changed, expected, tmp_path):
    family = dataclasses.replace(FAMILIES[title], settings={**FAMILIES[title].settings, **changed})
    family.save(tmp_path)
    settings = LLMSettings(name=str(tmp_path), bidirectional=False)
    assert probe_head(settings, load_config(str(tmp_path), None, False, "name")) == expected


def test_heads_that_cannot_be_served_are_one_line(tmp_path, monkeypatch):
    saved(OTHERS["Granite"], tmp_path / "granite")
    settings = LLMSettings(name=str(tmp_path / "granite"), bidirectional=False)
    monkeypatch.setattr("mtllm_ds.models.head_probe._SCALES", ())
    with pytest.raises(
        UserError, match=r"^model\.llm\.name=.*granite model does something to its logits that is not known"
    ):
        probe_head(settings, load_config(settings.name, None, False, "name"))
    several = Family(
        "DistilBERT",
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        {"vocab_size": 60, "dim": 32, "hidden_dim": 48, "n_heads": 4, "n_layers": 2},
    )
    several.save(tmp_path / "distilbert")
    settings = LLMSettings(name=str(tmp_path / "distilbert"))
    with pytest.raises(UserError, match="distilbert model has 2 parts before its matrix; name another"):
        probe_head(settings, load_config(settings.name, None, False, "name"))
