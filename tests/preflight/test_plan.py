"""Texts that an LLM has no positions for are refused by what it reads: in a stack the encoder's too."""

from types import SimpleNamespace

import numpy as np
import pytest
from transformers import BertConfig

from mtllm_ds.errors import UserError
from mtllm_ds.preflight.plan import _check_room
from tests.fixtures.runs import make_run, settings_of


def test_in_a_stack_the_encoders_tokens_are_read_by_the_llm(tmp_path):
    recipe = make_run(tmp_path, "bert")
    config = BertConfig(hidden_size=32, num_attention_heads=4, intermediate_size=32, max_position_embeddings=20)
    samples = SimpleNamespace(encoder_lengths=np.array([9, 21]), llm_lengths=np.array([3, 20]))
    with pytest.raises(UserError, match="reads at most 20 tokens, and a sample has 21; prepare the shards"):
        _check_room(settings_of(recipe), config, [samples])
    samples.encoder_lengths[1] = 20
    assert _check_room(settings_of(recipe), config, [samples]) == []
