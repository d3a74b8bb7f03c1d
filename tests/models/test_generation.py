"""The causal class put together from body and head writes as transformers' own whole model does."""

from contextlib import contextmanager

import pytest
import torch
from transformers import GenerationConfig

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.errors import UserError
from mtllm_ds.models.generation import causal_model, left_padded
from mtllm_ds.models.lm_head import load_output_head
from mtllm_ds.models.loading import load_llm
from mtllm_ds.models.readers import LLMReader
from tests.models.families import LLMS
from tests.models.test_lm_head import FAMILIES, saved, tied_or_not

WRITERS = (
    "Llama 2, 3", "Llama 4", "Qwen 3", "Qwen3-Next", "Mistral Small 3", "Gemma 2", "Gemma 3", "Olmo-Hybrid", "LFM2", "GPT-OSS",
    "OPT", "BLOOM", "GPT-2", "GPT-NeoX, Pythia", "Phi", "Cohere", "Granite",
)  # fmt: skip
IDS = torch.tensor([[5, 9, 6, 7, 8], [3, 4, 9, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
NEW = 6


def parts(folder):
    settings = LLMSettings(name=str(folder), bidirectional=False)
    reader = LLMReader(load_llm(settings, "sdpa", torch.float32)).eval()
    return settings, reader, load_output_head(settings, reader, torch.float32)


def written_by_hand(whole, ids):
    """Greedy, the whole text anew for each token, without a cache."""
    for _ in range(NEW):
        logits = whole(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
    return ids[:, -NEW:]


@pytest.mark.parametrize("title", WRITERS)
@torch.no_grad()
def test_batches_of_embeddings_are_written_on_as_each_text_alone_by_hand(title, tmp_path):
    whole = saved(FAMILIES[title], tmp_path)
    settings, reader, head = parts(tmp_path)
    model = causal_model(settings, reader, head)
    model.generation_config = GenerationConfig(pad_token_id=0)
    embeddings, mask = left_padded(reader.embeddings(IDS, MASK), MASK)
    found = model.generate(inputs_embeds=embeddings, attention_mask=mask, max_new_tokens=NEW, do_sample=False)
    alone = torch.cat([written_by_hand(whole, ids[kept.bool()][None]) for ids, kept in zip(IDS, MASK, strict=True)])
    assert torch.equal(found, alone)


@pytest.mark.parametrize("tied", [True, False])
def test_nothing_is_copied(tied, tmp_path):
    saved(tied_or_not(LLMS["Llama 2, 3"], tied), tmp_path)
    settings, reader, head = parts(tmp_path)
    model = causal_model(settings, reader, head)
    ours = {id(parameter) for parameter in (*reader.parameters(), *head.parameters())}
    assert {id(parameter) for parameter in model.parameters()} == ours
    assert (model.get_output_embeddings().weight is reader.trained_model.get_input_embeddings().weight) == tied


def test_every_forward_is_entered_and_left(tmp_path):
    saved(LLMS["Llama 2, 3"], tmp_path)
    seen = []

    @contextmanager
    def around():
        seen.append("in")
        yield
        seen.append("out")

    model = causal_model(*parts(tmp_path), around)
    model.generate(IDS[:1], max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert seen == ["in", "out"] * 3


def test_rows_end_together():
    values = torch.arange(8.0).view(2, 4, 1) + 1
    mask = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0]])
    moved, kept = left_padded(values, mask)
    assert moved[..., 0].tolist() == [[0.0, 0.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0]]
    assert kept.tolist() == [[0, 0, 1, 1], [0, 0, 0, 1]]


def test_what_looks_both_ways_cannot_write(tmp_path):
    saved(LLMS["Llama 2, 3"], tmp_path)
    settings, reader, head = parts(tmp_path)
    with pytest.raises(UserError, match=r"^model\.llm\.bidirectional=true: .* cannot write; "):
        causal_model(settings.model_copy(update={"bidirectional": True}), reader, head)
