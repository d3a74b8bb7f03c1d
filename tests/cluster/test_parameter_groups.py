"""Which parameter decays, and at which rate."""

from torch import nn

from mtllm_ds.cluster.parameter_groups import parameter_groups
from mtllm_ds.config.sections import OptimSettings


def test_biases_and_norms_do_not_decay_and_the_connector_has_its_own_rate():
    module = nn.ModuleDict({"connector": nn.Linear(3, 4), "llm": nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))})
    module["llm"][0].weight.requires_grad_(False)
    groups = parameter_groups(module, OptimSettings(learning_rate=1.0, connector_learning_rate=0.5, weight_decay=0.1))
    found = {(g["lr"], g["weight_decay"]): sum(p.numel() for p in g["params"]) for g in groups}
    assert found == {(0.5, 0.1): 12, (0.5, 0.0): 4, (1.0, 0.0): 4 + 8}
    assert all(group["base_lr"] == group["lr"] for group in groups)


def test_an_encoder_in_part_has_its_own_rate_and_an_llm_that_is_one_has_not():
    student = nn.ModuleDict({"encoder": nn.Linear(3, 4), "llm": nn.ModuleDict({"encoder": nn.Linear(5, 5)})})
    module = nn.ModuleDict({"student": student})
    student["encoder"].bias.requires_grad_(False)
    for rate in (0.5, None):
        groups = parameter_groups(
            module, OptimSettings(learning_rate=1.0, encoder_learning_rate=rate, weight_decay=0.1)
        )
        found = {(g["lr"], g["weight_decay"]): sum(p.numel() for p in g["params"]) for g in groups}
        assert found == ({(0.5, 0.1): 12, (1.0, 0.1): 25, (1.0, 0.0): 5} if rate else {(1.0, 0.1): 37, (1.0, 0.0): 5})
