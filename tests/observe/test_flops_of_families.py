"""FLOPs of every family of LLM, whole models that train, against those that torch counts operator by operator."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mtllm_ds.observe.flops import StepFlops, note_padded
from tests.models.families import LLMS

UNSEEN = {
    "BLOOM": "BloomModel",
    "Falcon": "FalconModel",
    "XGLM": "XGLMModel",
    "GPT-Neo": "GPTNeoModel",
    "MPT": "MptModel",
}
"""Their attention is code of their own, which nothing can look at"""
RECURRENT = ("Qwen3-Next", "Qwen 3.5", "Olmo-Hybrid", "LFM2")
"""Whose recurrences and convolutions are no matrix products of ours"""
FAMILIES = [title for title, family in LLMS.items() if family.whole_class != "Llama4ForConditionalGeneration"]


def text_model(family):
    """The part of a published model that reads text; its experts one by one, as torch counts no grouped products."""
    whole = family.whole()
    model = getattr(whole, "model", None) or getattr(whole, whole.base_model_prefix)
    model = getattr(model, "language_model", model)
    model.set_attn_implementation("eager")
    model.config._experts_implementation = "eager"
    return model


@pytest.mark.parametrize("title", [title for title in FAMILIES if title not in RECURRENT])
def test_products_are_those_of_the_operators(title):
    model, ids = text_model(LLMS[title]), torch.randint(3, 50, (2, 7), generator=torch.Generator().manual_seed(0))

    def take():
        mask = torch.ones_like(ids)
        with counted.micro_batch():
            note_padded(model, mask)
            model(input_ids=ids, attention_mask=mask).last_hidden_state.sum().backward()

    counted, mode = StepFlops(), FlopCounterMode(display=False)
    take()
    counted.take()
    with mode:
        take()
    found, by_operator = counted.take(), mode.get_total_flops()
    assert counted.unseen == ((UNSEEN[title],) if title in UNSEEN else ())
    if title in UNSEEN:
        by_operator -= sum(n for name, n in mode.get_flop_counts()["Global"].items() if "bmm" in str(name))
    assert found.model == found.hardware == by_operator
