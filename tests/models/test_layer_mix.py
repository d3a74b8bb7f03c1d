"""Mixed encoder layers: float64 transformers read by hand, padded and packed, with the gradient of the weights."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel

from mtllm_ds.config.sections import ConnectorSettings, EncoderSettings, LLMSettings, LoraSettings, ModelSettings
from mtllm_ds.data.stream.packing import pack_batch
from mtllm_ds.models.build import new_reader
from mtllm_ds.models.layer_mix import LayerMix, normalised
from tests.fixtures.models import save_llama, save_mt_model

LENGTHS = (7, 5, 3)
LOGITS = torch.tensor([0.3, -1.0, 0.8])


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mix")
    model = ModelSettings(
        encoder=EncoderSettings(name=str(save_mt_model(folder / "mt"))),
        llm=LLMSettings(name=str(save_llama(folder / "llm"))),
        connector=ConnectorSettings(layers="all"),
        lora=LoraSettings(rank=2, dropout=0.0),
    )
    reader = new_reader(model, torch.device("cpu"), torch.float32).eval()
    reader.layer_mix.logits.data = LOGITS.clone()[: len(reader.encoder.layers)]
    return reader


@pytest.fixture(scope="module")
def texts():
    ids = torch.randint(10, 200, (3, 7), generator=torch.Generator().manual_seed(0))
    return ids, (torch.arange(7) < torch.tensor(LENGTHS)[:, None]).long()


def test_what_the_llm_reads_and_its_gradient_equal_float64(stack, texts):
    ids, mask = texts
    place = torch.randn(3, 7, stack.connector.out_features, generator=torch.Generator().manual_seed(1))
    stack.zero_grad()
    found = stack.embeddings(ids, mask)
    (found * place * mask[..., None]).sum().backward()
    name = stack.encoder.model.config._name_or_path
    whole = AutoModel.from_pretrained(name, dtype=torch.float64, attn_implementation="eager").get_encoder().eval()
    with torch.no_grad():
        told = whole(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    states = torch.stack([*told.hidden_states[:-1], told.last_hidden_state])
    centred = states - states.mean(-1, keepdim=True)
    states = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    logits = stack.layer_mix.logits.detach().double().requires_grad_()
    mixed = torch.einsum("k,kbsd->bsd", logits.exp() / logits.exp().sum(), states)
    truth = mixed @ stack.connector.weight.double().T + stack.connector.bias.double()
    (truth * place * mask[..., None]).sum().backward()
    torch.testing.assert_close(found.double()[mask.bool()], truth[mask.bool()], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stack.layer_mix.logits.grad.double(), logits.grad, rtol=1e-3, atol=1e-4)
    assert logits.grad.abs().max() > 1e-3


def test_packed_rows_are_padded_ones(stack, texts):
    ids, mask = texts
    rows = [np.asarray(row[:length]) for row, length in zip(ids, LENGTHS, strict=True)]
    packed = pack_batch(rows, rows, [0, 0, 1], {"encoder": 1, "llm": 1}, 2)
    heard = packed.encoder.of_tokens(stack._heard_packed(packed))
    torch.testing.assert_close(heard, stack.embeddings(ids, mask)[mask.bool()], rtol=1e-4, atol=1e-5)


def test_equal_weights_are_the_mean_and_one_large_weight_its_layer_alone():
    mix, layers = LayerMix(3, torch.float32), [torch.randn(2, 4, 8) for _ in range(3)]
    torch.testing.assert_close(mix(tuple(layers)), torch.stack(layers).mean(0))
    nn.init.constant_(mix.logits, -200.0).data[1] = 0.0
    torch.testing.assert_close(mix(tuple(layers)), layers[1])


def test_a_layer_of_any_scale_counts_alike():
    states = torch.randn(2, 4, 64, dtype=torch.float64)
    torch.testing.assert_close(normalised(1000 * states + 5), normalised(states), rtol=1e-3, atol=1e-4)
