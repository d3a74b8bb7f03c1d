"""What trains of a base model: LoRA, all of it, or the modules that are named."""

import pytest

from mtllm_ds.config.sections import ModelSettings
from mtllm_ds.errors import UserError
from mtllm_ds.models.lora import leave_unread, let_train
from mtllm_ds.models.readers import base_of
from tests.models.test_stacked import family_model


def trained(trainable):
    model = let_train(family_model("llama"), ModelSettings(trainable=trainable), seed=0)
    return {name for name, parameter in base_of(model).named_parameters() if parameter.requires_grad}, model


def test_all_of_it_and_nothing_else_is_added():
    names, model = trained("all")
    assert names == {name for name, _ in family_model("llama").named_parameters()}
    assert base_of(model) is model


def test_named_modules_train_whole():
    names, model = trained(("layers.1", "norm"))
    everything = [name for name, _ in model.named_parameters()]
    assert names == {name for name in everything if name.startswith(("layers.1.", "norm."))}
    assert 0 < len(names) < len(everything)


def test_lora_leaves_the_weights_alone():
    names, _ = trained("lora")
    assert names
    assert all(".lora_" in name for name in names)


def test_a_module_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(UserError, match=r"no module layers\.99; below it there are .*layers"):
        trained(("norm", "layers.99"))


def test_a_stack_leaves_alone_the_embeddings_that_it_never_reads():
    names, model = trained("all")
    leave_unread(model, ModelSettings(trainable="all"))
    now = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names - now == {"embed_tokens.weight"}
    _, model = trained(("embed_tokens",))
    with pytest.raises(UserError, match="never reads its input embeddings; name other modules"):
        leave_unread(model, ModelSettings(trainable=("embed_tokens",)))
