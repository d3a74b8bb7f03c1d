"""A whole mask gives the states that a mask per token gives, for every family that is given one."""

import pytest
import torch
from transformers import (
    M2M100Config,
    M2M100Model,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from mtllm_ds.models import whole_masks
from tests.models.test_stacked import FAMILIES, family_model


@pytest.mark.parametrize("bidirectional", [True, False], ids=["both_ways", "causal"])
@pytest.mark.parametrize("name", FAMILIES)
def test_states_of_tokens_are_the_same(name, bidirectional):
    if name == "bert" and not bidirectional:
        pytest.skip("an encoder looks both ways")
    model = family_model(name, bidirectional).eval()
    # Four tokens are within the sliding windows of the small Mistral and Gemma 3.
    ids = torch.randint(5, 60, (3, 4), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(4) < torch.tensor([4, 3, 1])[:, None]).long()
    whole = whole_masks.attention_mask(model, mask, causal=whole_masks.is_causal(model))
    assert whole.shape == (3, 1, 4, 4)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
        found = model(input_ids=ids, attention_mask=whole).last_hidden_state
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-5)


ENCODERS = {
    "m2m_100": lambda: M2M100Model(
        M2M100Config(
            vocab_size=60, d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
            encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, encoder_layerdrop=0.0,
        )
    ).get_encoder(),
    "roberta": lambda: RobertaModel(RobertaConfig(**SMALL), add_pooling_layer=False),
    "xlm-roberta": lambda: XLMRobertaModel(XLMRobertaConfig(**SMALL), add_pooling_layer=False),
}  # fmt: skip
SMALL = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2,
    "max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODERS)
def test_states_of_encoders_are_the_same(name):
    torch.manual_seed(0)
    model = ENCODERS[name]().eval()
    ids = torch.randint(5, 60, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9) < torch.tensor([9, 6, 3])[:, None]).long()
    ids = ids.masked_fill(mask == 0, 1)
    whole = whole_masks.attention_mask(model, mask, causal=False)
    assert whole.shape == (3, 1, 9, 9)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
        found = model(input_ids=ids, attention_mask=whole).last_hidden_state
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-5)


def test_every_family_that_is_given_one_is_tested():
    tested = {family_model(name).config.model_type for name in FAMILIES} | {*ENCODERS}
    assert tested >= whole_masks.TESTED


def test_others_get_the_mask_per_token():
    model, mask = family_model("mistral"), torch.ones(2, 9, dtype=torch.int64)
    model.config.sliding_window = 8
    assert whole_masks.attention_mask(model, mask, causal=True) is mask
    decoder = RobertaModel(RobertaConfig(**SMALL, is_decoder=True), add_pooling_layer=False)
    assert whole_masks.attention_mask(decoder, mask, causal=False) is mask
    model.config.sliding_window, model.config._attn_implementation = None, "eager"
    assert whole_masks.attention_mask(model, mask, causal=True) is mask
