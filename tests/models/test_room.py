"""Positions that a model has: as many tokens as its own class reads at its full number of positions, and not one more."""

import pytest
import torch
import transformers

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.models.checks import room_warning
from mtllm_ds.models.room import num_positions

_SIZE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
}
_GPT = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
ENDING = {
    "Bert": (_SIZE, 40),
    "Roberta": (_SIZE | {"pad_token_id": 1}, 38),
    "OPT": (_SIZE | {"ffn_dim": 32, "word_embed_proj_dim": 32}, 40),
    "BioGpt": (_SIZE | {"intermediate_size": 32}, 40),
    "GPT2": (_GPT, 40),
    "OpenAIGPT": (_GPT, 40),
    "CTRL": (_GPT | {"dff": 32}, 40),
    "GPTJ": (_GPT | {"rotary_dim": 4}, 40),
}
LLM = LLMSettings(name="x")


@pytest.mark.parametrize("family", ENDING)
def test_it_is_the_longest_text_that_the_whole_model_reads(family):
    settings, room = ENDING[family]
    config = getattr(transformers, f"{family}Config")(**settings)
    assert num_positions(LLM, config) == room
    model = getattr(transformers, f"{family}Model")(config).eval()
    ids = torch.full((1, room + 1), 5)
    with torch.no_grad():
        model(input_ids=ids[:, 1:], attention_mask=torch.ones_like(ids[:, 1:]))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=ids, attention_mask=torch.ones_like(ids))


@pytest.mark.parametrize("family", ["Llama", "ModernBert", "DebertaV2", "Bloom"])
def test_rotary_and_relative_positions_have_no_end(family):
    more = {"DebertaV2": {"position_biased_input": False, "relative_attention": True, "position_buckets": 20}}
    sizes = {name: value for name, value in _SIZE.items() if family != "Bloom" or name != "max_position_embeddings"}
    config = getattr(transformers, f"{family}Config")(**sizes | {"pad_token_id": 0} | more.get(family, {}))
    assert num_positions(LLM, config) is None


def test_rows_that_training_puts_together_are_a_warning():
    config = transformers.GPT2Config(**_GPT)
    assert room_warning(LLM, config, 40) == []
    (line,) = room_warning(LLM, config, 41)
    assert line.startswith("model.llm.name=x: reads at most 40 tokens, and a prompt with its response may take 41")
