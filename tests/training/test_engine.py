"""Learning rates by step, and which parameter decays."""

import pytest
from torch import nn

from mtllm_ds.config.sections import OptimSettings
from mtllm_ds.training.engine import parameter_groups, schedule_scale


def test_linear_warmup_and_decay():
    optim = OptimSettings(warmup_share=0.1, schedule="linear")
    scales = [schedule_scale(optim, step, 100) for step in range(100)]
    assert scales[0] == pytest.approx(0.1)
    assert scales[9] == pytest.approx(1.0)
    assert scales[10] == pytest.approx(1.0)
    assert scales[55] == pytest.approx(0.5)
    assert scales[99] == pytest.approx(1 / 90)
    assert scales[10:] == sorted(scales[10:], reverse=True)


def test_cosine_decay():
    optim = OptimSettings(warmup_share=0.0, schedule="cosine")
    assert schedule_scale(optim, 0, 10) == pytest.approx(1.0)
    assert schedule_scale(optim, 5, 10) == pytest.approx(0.5)
    assert 0 < schedule_scale(optim, 9, 10) < 0.05


def test_biases_and_norms_do_not_decay_and_the_connector_has_its_own_rate():
    module = nn.ModuleDict({"connector": nn.Linear(3, 4), "llm": nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))})
    module["llm"][0].weight.requires_grad_(False)
    groups = parameter_groups(module, OptimSettings(learning_rate=1.0, connector_learning_rate=0.5, weight_decay=0.1))
    found = {(g["lr"], g["weight_decay"]): sum(p.numel() for p in g["params"]) for g in groups}
    assert found == {(0.5, 0.1): 12, (0.5, 0.0): 4, (1.0, 0.0): 4 + 8}
    assert all(group["base_lr"] == group["lr"] for group in groups)
