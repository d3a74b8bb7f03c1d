"""The student's LLM as its teacher: what it switches off is on again, in every module, and nothing is left out."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import LlamaModel

from mtllm_ds.checkpoint.adapters import with_frozen_adapter
from mtllm_ds.config.sections import LoraSettings
from mtllm_ds.models.lora import add_lora, lora_layers
from mtllm_ds.models.own_weights import put_weights
from mtllm_ds.models.readers import LLMReader
from mtllm_ds.teachers.frozen_self import FrozenSelf
from mtllm_ds.teachers.paired_self import PairedSelf
from tests.fixtures.models import llama_config


@pytest.fixture
def student():
    torch.manual_seed(0)
    adapted = add_lora(LlamaModel(llama_config()), LoraSettings(rank=2, dropout=0.5), seed=0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return LLMReader(adapted)


def test_switching_off_and_on_walks_through_no_module(student, monkeypatch):
    """Counted, not timed: it is done twice a forward, and a walk through a large LLM costs the host tens of milliseconds."""
    teacher, walks = FrozenSelf(student), []
    for name in ("named_modules", "modules", "train", "requires_grad_"):
        walk = getattr(nn.Module, name)
        monkeypatch.setattr(
            nn.Module, name, lambda self, *a, _walk=walk, **k: walks.append(_walk) or _walk(self, *a, **k)
        )
    with teacher.untrained():
        pass
    assert walks == []
    student.llm.eval()
    assert walks


@pytest.mark.parametrize("training", [True, False])
def test_every_module_is_as_before_and_was_off_in_between(student, training):
    student.train(training)
    modules, seen = list(student.llm.modules()), []
    student.llm.base_model.model.register_forward_pre_hook(
        lambda *_: seen.append(
            (any(m.training for m in modules), all(layer.disable_adapters for layer in lora_layers(student.llm)))
        )
    )
    ids = torch.arange(2, 8)[None]
    told = FrozenSelf(student).read(ids, torch.ones_like(ids))
    assert seen == [(False, True)]
    assert all(module.training == training for module in modules)
    assert not any(layer.disable_adapters for layer in lora_layers(student.llm))
    plain = student.llm.unload().eval()(input_ids=ids).last_hidden_state
    torch.testing.assert_close(told, plain)


def test_a_start_that_is_kept_teaches_with_the_adapter_that_was_frozen(student):
    """Once the first adapter is frozen and a fresh one trains, the teacher is the model that the first one made."""
    ids = torch.arange(2, 8)[None]
    mask = torch.ones_like(ids)
    student.eval()
    with torch.no_grad():
        first = student.states(ids, mask)
    trained = {f"llm.{name}": value.detach() for name, value in student.llm.named_parameters() if "lora_" in name}
    fresh = LLMReader(add_lora(student.llm.unload(), LoraSettings(rank=3, dropout=0.0), seed=1))
    put_weights(fresh, with_frozen_adapter(trained, LoraSettings(rank=2)))
    teacher, base = FrozenSelf(fresh, keeps_start=True), FrozenSelf(fresh)
    torch.testing.assert_close(teacher.read(ids, mask), first)
    for name, parameter in fresh.llm.named_parameters():
        if ".lora_B.default." in name:
            nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        moved = fresh.states(ids, mask)
    torch.testing.assert_close(teacher.read(ids, mask), first)
    assert not torch.allclose(moved, first, atol=1e-3)
    assert not torch.allclose(base.read(ids, mask), first, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(fresh.states(ids, mask), moved)  # both adapters are on again
    text = SimpleNamespace(packed=None, llm_ids=ids, llm_mask=mask)
    beside = PairedSelf(fresh, keeps_start=True, gives_tuples=False)
    told, given = beside.states_beside(text, lambda: fresh.states(ids, mask))
    assert torch.equal(told, teacher.read(ids, mask))
    torch.testing.assert_close(given, moved)
