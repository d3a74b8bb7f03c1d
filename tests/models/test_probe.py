"""The probe: cheap, without side effects, whole under ZeRO-3, and honest where it could not measure."""

import torch
import transformers
from torch import nn
from transformers import LlamaConfig, LlamaModel, MambaConfig, Qwen3NextConfig

from mtllm_ds.cluster.zero import partitioned_loading
from mtllm_ds.config.sections import ModelSettings
from mtllm_ds.models import probe as module
from mtllm_ds.models.checks import check_llm, unprobed_warning
from mtllm_ds.models.loading import load_config
from mtllm_ds.models.probe import probe
from mtllm_ds.models.small import small_config
from tests.fixtures.models import llama_config, save_llama
from tests.fixtures.runs import make_run, settings_of


def test_published_sizes_become_toys_with_every_kind_of_layer():
    small = small_config(Qwen3NextConfig())
    assert small.layer_types == ["linear_attention"] * 3 + ["full_attention"]
    with torch.device("meta"):
        model = transformers.Qwen3NextModel(small)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000


def test_a_model_of_any_size_is_probed_and_its_recurrence_named():
    found = probe(transformers.Qwen3NextModel, Qwen3NextConfig(), True)
    assert (found.sees_end, found.one_way, found.both_ways) == (True, ("Qwen3NextGatedDeltaNet",), False)
    assert probe(transformers.MambaModel, MambaConfig(), True).one_way == ("MambaMixer",)


def test_nothing_random_is_drawn_from_the_run():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    config = LlamaConfig(hidden_size=1234 * 4, num_attention_heads=4)
    assert probe(LlamaModel, config, True).both_ways
    assert torch.equal(torch.random.get_rng_state(), before)
    assert config.hidden_size == 1234 * 4


def test_it_is_asked_once_a_process(monkeypatch):
    probe(LlamaModel, llama_config(), True)
    monkeypatch.setattr(module, "_probe", None)
    assert probe(LlamaModel, llama_config(), True).both_ways


def test_partitioned_loading_changes_nothing():
    config = LlamaConfig(hidden_size=1236 * 4, num_attention_heads=4)
    with partitioned_loading({"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}):
        found = probe(LlamaModel, config, True)
    assert not found.failure
    assert found.both_ways


class Broken(LlamaModel):
    def forward(self, *args, **kwargs):
        raise NotImplementedError("toys\nare not read")


def test_what_could_not_be_measured_is_said(tmp_path, monkeypatch):
    folder = save_llama(tmp_path)
    settings = ModelSettings(encoder={"name": "someone/never_read"}, llm={"name": str(folder)})
    config = load_config(str(folder), None, False, "model.llm.name")
    monkeypatch.setattr("mtllm_ds.models.text_models.text_model_class", lambda *_: Broken)
    monkeypatch.setattr("mtllm_ds.models.checks.text_model_class", lambda *_: Broken)
    found = check_llm(settings, config, packed=True)
    assert found.failure == "NotImplementedError: toys are not read"
    (warning,) = unprobed_warning(settings, found)
    assert "Broken could not be probed (NotImplementedError: toys are not read)" in warning
    assert "\n" not in warning


def test_a_layer_that_looks_back_only_is_found_inside_one_that_does_not():
    class Back(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Identity()

        def forward(self, hidden_states):
            return self.mix(hidden_states).cumsum(1)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.back = Back()

        def forward(self, hidden_states):
            return self.back(hidden_states) + hidden_states.mean(1, keepdim=True)

    class Toy(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(20, 8)
            self.layers = nn.ModuleList([Both()])

        def forward(self, input_ids, attention_mask):
            return type("Output", (), {"last_hidden_state": self.layers[0](self.table(input_ids))})

    with torch.no_grad():
        assert module._one_way_parts(Toy()) == {"Back"}


def test_the_dry_run_shows_it(tmp_path):
    from mtllm_ds.preflight.plan import check_run, describe_plan

    lines = describe_plan(check_run(settings_of(make_run(tmp_path)), 1)).splitlines()
    assert (
        "LLM probe   LlamaModel: tokens look both ways, padding changes nothing, rows can be packed (probed)" in lines
    )
