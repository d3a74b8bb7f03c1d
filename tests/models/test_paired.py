"""Two passes side by side are two passes one after the other, bit for bit, in every family; what cannot be so is told."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel
from transformers.modeling_outputs import BaseModelOutput

from mtllm_ds.config.sections import LLMSettings, LoraSettings
from mtllm_ds.models.base_dropout import set_attention_dropout
from mtllm_ds.models.lora import add_lora
from mtllm_ds.models.paired import PairedSweep, layers_of
from mtllm_ds.models.pairing import pairing_of
from mtllm_ds.models.readers import base_of
from mtllm_ds.models.text_models import embedding_size, text_model_class
from mtllm_ds.models.untrained import Untrained
from tests.fixtures.models import llama_config
from tests.models.families import LLMS
from tests.models.measuring import load

LAYERS_OWN_IDS = "Gemma 4 E2B, E4B"
NARROW = {"Llama 4": ["q_proj", "v_proj"]}
"""Of the Linear layers that PEFT finds, its router cannot be adapted."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return lambda title: LLMS[title].save(root / title.replace(" ", "_"))


def results(model, paired, *, gives_tuples=False, embeddings=True):
    """States of teacher and student and all gradients; the student reads vectors that train, or ids."""
    llm, untrained = base_of(model), Untrained(model)
    draw = torch.Generator().manual_seed(2)
    ids, mask = torch.randint(5, 50, (2, 7), generator=draw), torch.ones(2, 7, dtype=torch.int64)
    mask[1, 5:] = 0
    heard, heard_mask = torch.randn(2, 9, embedding_size(llm), generator=draw), torch.ones(2, 9, dtype=torch.int64)
    heard_mask[0, 6:] = 0
    heard.requires_grad_()

    def teacher():
        with untrained(), torch.no_grad():
            return llm(input_ids=ids, attention_mask=mask).last_hidden_state

    def student():
        if embeddings:
            return llm(inputs_embeds=heard, attention_mask=heard_mask).last_hidden_state
        return llm(input_ids=ids + 3, attention_mask=mask).last_hidden_state

    def its_turn():
        with untrained.lifted(), torch.enable_grad():
            return student()

    torch.manual_seed(5)  # of LoRA's dropout
    if paired:
        told, given = PairedSweep(llm, gives_tuples=gives_tuples)(teacher, its_turn)
    else:
        told, given = teacher(), student()
    model.zero_grad()
    (given.mean(1) - told.mean(1)).square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [told, given.detach(), *gradients, *([heard.grad] if embeddings else [])]


def require_equal(one, other):
    assert len(one) == len(other) > 5
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


def adapted(model, dropout, target_modules="all-linear"):
    settings = LoraSettings(rank=2, dropout=dropout, target_modules=target_modules)
    model = add_lora(model, settings, seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return model.train()


@pytest.mark.parametrize("title", LLMS)
def test_every_family_bit_for_bit_with_and_without_checkpointing(saved, title):
    family = LLMS[title]
    base = load(saved(title), not family.refused)
    settings = LLMSettings(name="unused", bidirectional=not family.refused)
    pairing = pairing_of(text_model_class(base.config, settings), base.config, settings.bidirectional)
    assert not pairing.failure
    has_experts = any("expert" in name for name, _ in base.named_modules())  # PEFT drops nothing out in those
    model = adapted(base, 0.0 if has_experts else 0.2, NARROW.get(title, "all-linear"))
    how = {"gives_tuples": pairing.gives_tuples, "embeddings": title != LAYERS_OWN_IDS}
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        apart = results(model, False, **how)
        require_equal(results(model, True, **how), apart)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_family_looking_either_way(saved, bidirectional):
    model = adapted(load(saved("Mistral"), bidirectional), 0.2)
    apart = results(model, False)
    require_equal(results(model, True), apart)


def test_dropout_of_the_base_itself_falls_on_the_student_alone():
    torch.manual_seed(0)
    base = LlamaModel(llama_config())
    assert set_attention_dropout(base, 0.3)
    model = adapted(base, 0.0)
    apart = results(model, False)
    require_equal(results(model, True), apart)


def test_every_layer_is_entered_once_and_modules_are_as_before():
    torch.manual_seed(0)
    model = adapted(LlamaModel(llama_config()), 0.2)
    layers, entered = base_of(model).layers, []
    names = [name for name, _ in model.named_modules()]
    for layer in layers:
        layer.register_forward_pre_hook(lambda *_: entered.append(1))
    results(model, True)
    assert len(entered) == len(layers)
    assert base_of(model).layers is layers
    assert names == [name for name, _ in model.named_modules()]
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad == ("lora" in name) for name, p in model.named_parameters())


def test_an_error_of_the_student_leaves_the_model_as_it_was():
    torch.manual_seed(0)
    model = adapted(LlamaModel(llama_config()), 0.2)
    llm, untrained = base_of(model), Untrained(model)
    sweep, layers, ids = PairedSweep(llm, gives_tuples=False), llm.layers, torch.tensor([[3, 4, 5]])

    def teacher():
        with untrained():
            return llm(input_ids=ids).last_hidden_state

    def student():
        with untrained.lifted():
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        sweep(teacher, student)
    assert llm.layers is layers
    assert all(module.training for module in model.modules())
    truth, given = teacher(), llm.eval()(input_ids=ids).last_hidden_state
    assert not torch.equal(truth, given)  # adapters are on again


class Toy(LlamaModel):
    """A Llama whose layers may be given something else."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        states = self.embed_tokens(input_ids)
        turns = self.rotary_emb(states, torch.arange(input_ids.shape[1])[None])
        for layer in self.all_layers():
            states = self.through(layer, states, turns)
        return BaseModelOutput(last_hidden_state=self.norm(states))

    def all_layers(self):
        return self.layers

    def through(self, layer, states, turns):
        return layer(states, position_embeddings=turns)


class Scattered(Toy):
    """Layers that stand in no list."""

    def __init__(self, config):
        super().__init__(config)
        self.one, self.two = self.layers
        del self.layers

    def all_layers(self):
        return self.one, self.two


class Named(Toy):
    """States by name: ZeRO-3 does not see them come."""

    def through(self, layer, states, turns):
        return layer(hidden_states=states, position_embeddings=turns)


class Handing(Toy):
    """What a layer is given depends on what the layer before gave."""

    def through(self, layer, states, turns):
        return layer(states, position_embeddings=tuple(part * states.mean() for part in turns))


@pytest.mark.parametrize(
    ("model_class", "why"),
    [(Scattered, "stand in no list"), (Named, "hidden_states"), (Handing, "come out otherwise"), (Toy, "")],
)
def test_what_cannot_be_side_by_side_is_found_at_toy_size(model_class, why):
    found = pairing_of(model_class, LlamaConfig(**llama_config().to_dict() | {"num_hidden_layers": 2}), False)
    assert why in found.failure
    assert bool(why) == bool(found.failure)


def test_the_list_of_layers_is_found_wherever_it_stands(saved):
    for title, name in (("OPT", "layers"), ("GPT-2", "h"), ("BERT", "layer"), ("MPT", "blocks"), ("Mixtral", "layers")):
        model = load(saved(title), not LLMS[title].refused)
        owner, found = layers_of(model)
        assert found == name
        assert len(getattr(owner, found)) == model.config.num_hidden_layers
