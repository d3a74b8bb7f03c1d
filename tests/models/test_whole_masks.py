"""A whole mask gives the states that a mask per token gives, for every family that is given one."""

import pytest
import torch

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


def test_others_get_the_mask_per_token():
    model, mask = family_model("mistral"), torch.ones(2, 9, dtype=torch.int64)
    model.config.sliding_window = 8
    assert whole_masks.attention_mask(model, mask, causal=True) is mask
    model.config.sliding_window, model.config._attn_implementation = None, "eager"
    assert whole_masks.attention_mask(model, mask, causal=True) is mask
