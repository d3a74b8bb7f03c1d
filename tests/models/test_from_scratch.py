"""Models from scratch: their weights come from the seed alone, their vocabulary from the tokenizer."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.errors import UserError
from mtllm_ds.models.loading import base_fingerprint, llm_config, load_llm
from mtllm_ds.models.readers import LLMReader
from mtllm_ds.models.trained_head import load_trained_head
from tests.fixtures.models import save_masked_lm
from tests.fixtures.tokenizers import save_bert_tokenizer, save_llama_tokenizer, save_xlm_r_tokenizer

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return save_xlm_r_tokenizer(tmp_path_factory.mktemp("scratch") / "tokenizer")


def scratch(folder, **config):
    return LLMSettings(name=str(folder), from_scratch=True, config={**SMALL, **config})


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "modernbert", "eurobert"])
def test_a_body_and_its_head_are_one_model_of_transformers(tokenizer, family):
    """Drawn apart, both are the tensors that transformers' whole class draws from the same seed or, tied, one."""
    llm = scratch(tokenizer, model_type=family)
    torch.manual_seed(99)  # what others drew before does not matter
    reader = LLMReader(load_llm(llm, "sdpa", torch.float32, seed=3)).requires_grad_(True)
    head = load_trained_head(llm, reader, torch.float32, seed=3)
    again = LLMReader(load_llm(llm, "sdpa", torch.float32, seed=3))
    assert all(torch.equal(one, two) for one, two in zip(reader.parameters(), again.parameters(), strict=True))
    config = llm_config(llm)
    assert config.vocab_size == 131
    assert config.pad_token_id == 1
    whole = AutoModelForMaskedLM.from_config(config)
    counted = {id(p): p.numel() for module in (reader, head) for p in module.parameters()}
    assert sum(counted.values()) == sum(p.numel() for p in whole.parameters())
    assert all(parameter.requires_grad for parameter in head.parameters())
    ids = torch.randint(5, 131, (2, 9))
    logits = head(reader.states(ids, torch.ones_like(ids)))
    assert logits.shape == (2, 9, 131)


TOKENIZERS = {"xlm-r": save_xlm_r_tokenizer, "bert": save_bert_tokenizer, "llama": save_llama_tokenizer}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    return {name: save(folder / name) for name, save in TOKENIZERS.items()}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    "family", ["bert", "roberta", "xlm-roberta", "modernbert", "eurobert", "llama", "qwen3", "gemma"]
)
def test_special_ids_are_the_tokenizers_own_or_none(tokenizers, family, kind):
    """What an architecture has by default means another piece here, or lies beyond the vocabulary."""
    spelled = AutoTokenizer.from_pretrained(tokenizers[kind])
    config = llm_config(scratch(tokenizers[kind], model_type=family))
    named = {name: value for name, value in config.to_dict().items() if name.endswith("_token_id")}
    assert {"pad_token_id", "bos_token_id", "eos_token_id"} <= named.keys()
    for name, value in named.items():
        own = getattr(spelled, name, None)
        if (family, name, own) == ("eurobert", "mask_token_id", None):  # transformers wants a number
            assert value < len(spelled)
        else:
            assert value == own, name
        assert value is None or value < config.vocab_size == len(spelled)


def test_special_ids_beyond_the_vocabulary_are_refused(tokenizer):
    with pytest.raises(UserError, match=r"model\.llm\.config\.bos_token_id=131: the vocabulary has 131 ids; remove it"):
        llm_config(scratch(tokenizer, model_type="bert", bos_token_id=131))
    assert llm_config(scratch(tokenizer, model_type="bert", bos_token_id=130)).bos_token_id == 130


def test_what_the_name_holds_is_the_default(tmp_path):
    folder = save_masked_lm(tmp_path / "bert")
    kept = llm_config(LLMSettings(name=str(folder), from_scratch=True))
    assert kept.hidden_size == AutoConfig.from_pretrained(folder).hidden_size
    deeper = llm_config(LLMSettings(name=str(folder), from_scratch=True, config={"num_hidden_layers": 5}))
    assert (deeper.num_hidden_layers, deeper.hidden_size) == (5, kept.hidden_size)


def test_a_fingerprint_is_the_architecture(tokenizer):
    one, two = scratch(tokenizer, model_type="bert"), scratch(tokenizer, model_type="bert", hidden_size=32)
    assert base_fingerprint(one).startswith("scratch:")
    assert base_fingerprint(one) == base_fingerprint(scratch(tokenizer, model_type="bert"))
    assert base_fingerprint(one) != base_fingerprint(two)


def test_a_tokenizer_alone_needs_an_architecture(tokenizer):
    with pytest.raises(
        UserError, match=r"holds a tokenizer alone; say the architecture in model\.llm\.config\.model_type"
    ):
        llm_config(LLMSettings(name=str(tokenizer), from_scratch=True))
