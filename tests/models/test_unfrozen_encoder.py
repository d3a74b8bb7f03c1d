"""Top layers of a stack's encoder that train: gradients are those of transformers in plain autograd, nothing is kept below."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from mtllm_ds.config.sections import ConnectorSettings, EncoderSettings, LLMSettings, LoraSettings, ModelSettings
from mtllm_ds.data.stream.packing import pack_batch
from mtllm_ds.errors import UserError
from mtllm_ds.models.build import new_reader
from mtllm_ds.models.encoders import check_encoder, let_top_layers_train, load_encoder
from mtllm_ds.models.paired import layers_of
from tests.fixtures.models import LLM_WIDTH, save_llama, save_mt_model
from tests.models.encoder_families import ENCODERS

LENGTHS = (7, 5, 3)
FINAL_NORMS = {
    "m2m_100": "layer_norm", "t5": "encoder.final_layer_norm", "mt5": "encoder.final_layer_norm",
    "umt5": "encoder.final_layer_norm", "t5_gemma_module": "norm", "t5gemma2_text": "norm", "modernbert": "final_norm",
    "eurobert": "norm", "xlm-roberta": None, "bert": None, "gte": None,
}  # fmt: skip
"""By `model_type` of the encoder's own config, as its class in transformers calls it"""


def texts(seed=0, vocabulary=100):
    ids = torch.randint(4, vocabulary, (3, 7), generator=torch.Generator().manual_seed(seed))
    return ids, (torch.arange(7) < torch.tensor(LENGTHS)[:, None]).long()


@pytest.mark.parametrize("title", ENCODERS)
def test_gradients_of_every_family_are_those_of_plain_autograd(tmp_path, title):
    """Of all its weights in transformers' own eager form; ours has those of the top layer and the final norm alone."""
    family = ENCODERS[title]
    encoder = load_encoder(EncoderSettings(name=str(family.save(tmp_path / "mt"))), "sdpa", torch.float32)
    let_top_layers_train(encoder.model, 1)
    owner, name = layers_of(encoder.model)
    layers, below = owner.get_submodule(name), []
    layers[-2].register_forward_hook(lambda module, args, out: below.append(out if torch.is_tensor(out) else out[0]))
    ids, mask = texts()
    place = torch.randn(3, 7, encoder.hidden_size, generator=torch.Generator().manual_seed(1)) * mask[..., None]
    found = encoder.train()(ids, mask)
    (found * place).sum().backward()
    assert not below[0].requires_grad
    trained = {name: p.grad for name, p in encoder.model.named_parameters() if p.requires_grad}

    whole = family.encoder_of(family.whole()).eval()
    whole.set_attn_implementation("eager")
    (whole(input_ids=ids, attention_mask=mask).last_hidden_state * place).sum().backward()
    truth = {name: p.grad for name, p in whole.named_parameters()}
    prefix = {id(module): name for name, module in encoder.model.named_modules()}
    tops = tuple(f"{prefix[id(part)]}." for part in (layers[-1], *_final_norm(encoder.model)))
    assert trained.keys() == {name for name, _ in encoder.model.named_parameters() if name.startswith(tops)}
    for name, gradient in trained.items():
        theirs = truth[_name_in(truth, name)]
        torch.testing.assert_close(gradient, theirs, atol=2e-5, rtol=1e-3)
    assert max(float(gradient.abs().max()) for gradient in trained.values()) > 1e-2


def _name_in(truth, name):
    """The whole model's name, which has one part more or less in front where classes lie within each other."""
    ends = [other for other in truth if f".{name}".endswith(f".{other}") or f".{other}".endswith(f".{name}")]
    (found,) = [name] if name in truth else ends
    return found


def _final_norm(model):
    name = FINAL_NORMS[model.config.model_type]
    return [] if name is None else [model.get_submodule(name)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unfrozen")
    return ModelSettings(
        encoder=EncoderSettings(name=str(save_mt_model(folder / "mt")), num_trainable_layers=1),
        llm=LLMSettings(name=str(save_llama(folder / "llm"))),
        lora=LoraSettings(rank=2, dropout=0.0),
    )


def stack_of(model):
    return new_reader(model, torch.device("cpu"), torch.float32).train()


def test_gradients_pass_connector_and_llm(model):
    """An independent stack: transformers' encoder and LLM, joined by a product."""
    stack = stack_of(model)
    ids, mask = texts(vocabulary=200)
    place = torch.randn(3, 7, stack.hidden_size, generator=torch.Generator().manual_seed(1)) * mask[..., None]
    (stack.states(ids, mask) * place).sum().backward()
    encoder = AutoModel.from_pretrained(model.encoder.name, attn_implementation="eager").get_encoder().eval()
    llm = AutoModelForCausalLM.from_pretrained(model.llm.name, attn_implementation="eager").model.eval()
    weight, bias = (p.detach() for p in (stack.connector.weight, stack.connector.bias))
    read = encoder(input_ids=ids, attention_mask=mask).last_hidden_state @ weight.T + bias
    both_ways = (1 - mask[:, None, None].float()).expand(-1, 1, 7, -1) * torch.finfo(torch.float32).min
    (llm(inputs_embeds=read, attention_mask=both_ways).last_hidden_state * place).sum().backward()
    truth = {name: p.grad for name, p in encoder.named_parameters()}
    for name, parameter in stack.encoder.model.named_parameters():
        if name.startswith(("layers.1.", "layer_norm.")):
            torch.testing.assert_close(parameter.grad, truth[name], atol=1e-5, rtol=1e-3)
        else:
            assert parameter.grad is None, name
    assert float(truth["layer_norm.weight"].abs().max()) > 1e-2


def test_packed_texts_have_the_gradients_of_padded_ones(model):
    ids, mask = texts(vocabulary=200)
    rows = [np.asarray(row[:length]) for row, length in zip(ids, LENGTHS, strict=True)]
    packed = pack_batch(rows, rows, [0, 0, 1], {"encoder": 1, "llm": 1}, 2)
    found, direction = [], torch.randn(LLM_WIDTH, generator=torch.Generator().manual_seed(1))
    for packs in (True, False):
        stack = stack_of(model)
        tokens = (
            packed.encoder.of_tokens(stack.packed_states(packed)) if packs else stack.states(ids, mask)[mask.bool()]
        )
        (tokens @ direction).square().sum().backward()
        found.append({name: p.grad for name, p in stack.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert any(name.startswith("encoder.") for name in found[0])
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=1e-4, rtol=1e-3)


def test_mixed_layers_reach_the_top_ones(model):
    mixing = model.model_copy(update={"connector": ConnectorSettings(layers="all")})
    stack = stack_of(mixing)
    (stack.embeddings(*texts(vocabulary=200)) ** 2).sum().backward()
    trained = [p for p in stack.encoder.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None for p in trained)


def test_validation_and_a_frozen_encoder_keep_no_graph(model):
    stack = stack_of(model)
    ids, mask = texts(vocabulary=200)
    with torch.no_grad():
        assert not stack.encoder(ids, mask).requires_grad
    assert stack.encoder(ids, mask).requires_grad
    assert not any(module.training for module in stack.encoder.modules())
    assert not stack.requires_grad_(False).encoder(ids, mask).requires_grad


def test_layers_that_are_not_there_or_not_read_are_refused(model):
    def settings(count):
        return model.encoder.model_copy(update={"num_trainable_layers": count})

    check_encoder(settings(2), ConnectorSettings())
    check_encoder(settings(2), ConnectorSettings(layers="all"))
    check_encoder(settings(0), ConnectorSettings(layers=(0, 1)))
    with pytest.raises(UserError, match=r"num_trainable_layers=3: this m2m_100 encoder has 2 layers; lower it to 2"):
        check_encoder(settings(3), ConnectorSettings())
    with pytest.raises(UserError, match=r"layers=\[0, 1\] does not read layer 2; add 2, or set num_trainable_layers=0"):
        check_encoder(settings(1), ConnectorSettings(layers=(0, 1)))
    odd = torch.nn.Linear(2, 2)
    odd.config = AutoModel.from_pretrained(model.encoder.name).config
    with pytest.raises(
        UserError, match=r"num_trainable_layers=1: of this m2m_100 encoder its 2 layers stand in no list"
    ):
        let_top_layers_train(odd, 1)
