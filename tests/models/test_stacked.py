"""The stack against transformers itself in float64: states, pooling, direction, the exact trainable set."""

import copy

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    BertConfig,
    Gemma3TextConfig,
    Gemma3TextModel,
    GemmaConfig,
    LlamaConfig,
    LlamaModel,
    M2M100Config,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from mtllm_ds.config.sections import ConnectorSettings, EncoderSettings, LLMSettings, LoraSettings
from mtllm_ds.errors import UserError
from mtllm_ds.models.connector import build_connector
from mtllm_ds.models.direction import set_direction
from mtllm_ds.models.encoders import StackEncoder, load_encoder
from mtllm_ds.models.loading import load_llm
from mtllm_ds.models.lora import add_lora, lora_layers
from mtllm_ds.models.pooling import pool
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.teachers.frozen_self import FrozenSelf
from tests.fixtures.models import LLM_WIDTH, save_bert, save_llama, save_mt_model

COMMON = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip
DECODER = {**COMMON, "num_hidden_layers": 2, "num_key_value_heads": 2, "pad_token_id": 0, "head_dim": 8}
FAMILIES = {
    "llama": LlamaConfig(**DECODER),
    "qwen2": Qwen2Config(**{k: v for k, v in DECODER.items() if k != "head_dim"}),
    "qwen3": Qwen3Config(**DECODER),
    "mistral": MistralConfig(**DECODER, sliding_window=4),
    "gemma": GemmaConfig(**DECODER),
    "gemma3": Gemma3TextConfig(**{**DECODER, "num_hidden_layers": 7}, sliding_window=4),
    "bert": BertConfig(**COMMON, num_hidden_layers=2),
}


def family_model(name, bidirectional=True, seed=0):
    torch.manual_seed(seed)
    config = copy.deepcopy(FAMILIES[name])
    model = Gemma3TextModel(config) if name == "gemma3" else AutoModel.from_config(config)
    model.config.use_cache = False
    set_direction(model, bidirectional)
    return model.eval().requires_grad_(False)


class LookUp(nn.Module):
    """An 'encoder' that gives the LLM's own input embeddings."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def forward(self, input_ids, attention_mask):
        return self.table(input_ids)


def own_embeddings_stack(llm):
    table = llm.get_input_embeddings()
    adapted = add_lora(llm, LoraSettings(rank=2, dropout=0.0), seed=0)
    return StackedModel(LookUp(table), nn.Identity(), adapted).eval()


def ids_and_mask():
    torch.manual_seed(5)
    ids = torch.randint(3, 60, (3, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return ids, mask


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("padded", [False, True])
def test_bidirectional_attention_sees_the_last_token(family, padded):
    stack = own_embeddings_stack(family_model(family))
    ids, mask = ids_and_mask()
    if not padded:
        mask = torch.ones_like(mask)
    changed = ids.clone()
    last = int(mask[0].sum()) - 1
    # Mistral and Gemma 3 look four tokens far in a layer of sliding attention: change one within reach.
    changed[0, last if family not in ("mistral", "gemma3") else 2] = 1
    before, after = FrozenSelf(stack).read(ids, mask), FrozenSelf(stack).read(changed, mask)
    assert not torch.allclose(before[0, 0], after[0, 0])
    assert torch.equal(before[2], after[2])


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "bert"])
@pytest.mark.parametrize("padded", [False, True])
def test_causal_attention_does_not(family, padded):
    stack = own_embeddings_stack(family_model(family, bidirectional=False))
    ids, mask = ids_and_mask()
    if not padded:
        mask = torch.ones_like(mask)
    changed = ids.clone()
    changed[:, -1] = 1
    assert torch.equal(FrozenSelf(stack).read(ids, mask)[:, :6], FrozenSelf(stack).read(changed, mask)[:, :6])


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(family):
    stack = own_embeddings_stack(family_model(family))
    ids, mask = ids_and_mask()
    alone = FrozenSelf(stack).read(ids[1:2, :6], mask[1:2, :6])
    torch.testing.assert_close(FrozenSelf(stack).read(ids, mask)[1, :6], alone[0], atol=2e-6, rtol=1e-5)
    refilled = ids.clone()
    refilled[1, 6:] = 7
    torch.testing.assert_close(
        pool(stack.states(refilled, mask), mask, "mean"), pool(stack.states(ids, mask), mask, "mean")
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_own_embeddings_and_untrained_lora_give_the_teacher_itself(family):
    stack = own_embeddings_stack(family_model(family))
    ids, mask = ids_and_mask()
    assert torch.equal(stack.states(ids, mask), FrozenSelf(stack).read(ids, mask))


def test_adapters_are_off_for_the_teacher_only():
    stack = own_embeddings_stack(family_model("llama"))
    ids, mask = ids_and_mask()
    teacher = FrozenSelf(stack).read(ids, mask)
    for name, parameter in stack.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    assert torch.equal(FrozenSelf(stack).read(ids, mask), teacher)
    assert not torch.allclose(stack.states(ids, mask), teacher)
    assert all(p.requires_grad for n, p in stack.named_parameters() if "lora_" in n)
    assert not any(layer._disable_adapters for layer in lora_layers(stack))


def test_teacher_has_no_dropout_in_training():
    stack = own_embeddings_stack(family_model("bert")).train()
    ids, mask = ids_and_mask()
    assert torch.equal(FrozenSelf(stack).read(ids, mask), FrozenSelf(stack).read(ids, mask))
    assert not torch.equal(stack.states(ids, mask), stack.states(ids, mask))


def test_pooled_states_equal_float64_transformers(tmp_path):
    mt, llama = save_mt_model(tmp_path / "mt"), save_llama(tmp_path / "llm")
    encoder = load_encoder(EncoderSettings(name=str(mt)), "sdpa", torch.float32)
    llm = load_llm(LLMSettings(name=str(llama)), "sdpa", torch.float32)
    connector = build_connector(ConnectorSettings(), 16, LLM_WIDTH, seed=3, dtype=torch.float32)
    stack = StackedModel(encoder, connector, add_lora(llm, LoraSettings(rank=2, dropout=0.0), seed=0))
    ids, mask = torch.randint(3, 400, (2, 7)), torch.ones(2, 7, dtype=torch.int64)
    mask[0, 5:] = 0

    reference = LlamaModel.from_pretrained(llama, dtype=torch.float64, attn_implementation="eager")
    reference.config.is_causal = False
    whole = AutoModel.from_pretrained(mt, dtype=torch.float64, attn_implementation="eager").eval()
    states = whole.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    weight = connector.weight.detach().double().requires_grad_()
    embeddings = states.detach() @ weight.T + connector.bias.detach().double()
    out = reference(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
    truth = torch.stack([out[row, : int(mask[row].sum())].mean(0) for row in range(2)])
    truth.square().sum().backward()

    vectors = pool(stack.states(ids, mask), mask, "mean")
    vectors.square().sum().backward()
    torch.testing.assert_close(vectors.double(), truth, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(connector.weight.grad.double(), weight.grad, atol=1e-3, rtol=1e-4)


def test_trainable_parameters_at_the_size_of_the_paper():
    with torch.device("meta"):
        config = LlamaConfig(
            vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
            num_key_value_heads=8,
        )  # fmt: skip
        llm = LlamaModel(config).requires_grad_(False)
        adapted = add_lora(llm, LoraSettings(), seed=0)
        connector = nn.Linear(M2M100Config().d_model, config.hidden_size)
        stack = StackedModel(StackEncoder(nn.Linear(1, 1).requires_grad_(False), 1024), connector, adapted)
    trainable = {n: p.numel() for n, p in stack.named_parameters() if p.requires_grad}
    assert sum(count for name, count in trainable.items() if "lora_" in name) == 41_943_040
    assert sum(count for name, count in trainable.items() if "connector" in name) == 4_198_400
    assert sum(trainable.values()) == 41_943_040 + 4_198_400


def test_bert_serves_as_the_english_model(tmp_path):
    llm = load_llm(LLMSettings(name=str(save_bert(tmp_path / "bert"))), "sdpa", torch.float32)
    adapted = add_lora(llm, LoraSettings(rank=2), seed=0)
    assert not any("pooler" in name for name, _ in adapted.named_parameters())
    with pytest.raises(UserError, match="always bidirectional"):
        load_llm(LLMSettings(name=str(tmp_path / "bert"), bidirectional=False), "sdpa", torch.float32)
    assert adapted(inputs_embeds=torch.randn(1, 4, LLM_WIDTH)).last_hidden_state.shape == (1, 4, LLM_WIDTH)
