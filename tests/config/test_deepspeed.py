"""Every `auto` of the shipped DeepSpeed files is resolved, and none may contradict the recipe."""

import json
from pathlib import Path

import pytest

from mtllm_ds.config.deepspeed import resolve_deepspeed
from mtllm_ds.config.load import parse_settings
from mtllm_ds.errors import UserError
from tests.config.test_load import RECIPE

SHIPPED = sorted((Path(__file__).parents[2] / "ds_configs").glob("*.json"))


def settings(file, precision="bf16"):
    return parse_settings({**RECIPE, "training": {"deepspeed": str(file), "precision": precision}}, "test")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_every_auto_is_resolved(file, precision):
    config = resolve_deepspeed(settings(file, precision), world_size=4, micro_batch_size=8, micro_batches_per_step=2)
    assert '"auto"' not in json.dumps(config)
    assert config["train_batch_size"] == 4 * 8 * 2
    assert config["gradient_clipping"] == 1.0
    assert config["bf16"]["enabled"] == (precision == "bf16")
    assert config["data_types"]["grad_accum_dtype"] == "fp32"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"zero_optimization": {"stage": 1}}, "stages 2 and 3"),
        ({"zero_optimization": {"stage": 3}, "gradient_clipping": 7.0}, "gradient_clipping"),
        ({"zero_optimization": {"stage": 3}, "optimizer": {}}, "remove 'optimizer'"),
        ({"zero_optimization": {"stage": 3, "unheard_of": "auto"}}, "unheard_of"),
        ({"zero_optimization": {"stage": 3}, "bf16": {"enabled": False}}, "contradicts"),
        (
            {"zero_optimization": {"stage": 3}, "flops_profiler": {"enabled": True}},
            r"flops_profiler.enabled=true: .*flops_profiler_step",
        ),
        ({"zero_optimization": {"stage": 3}, "wall_clock_breakdown": True}, r"wall_clock_breakdown=true: .*--profile"),
        (
            {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": "/d"}}},
            r"zero_optimization.offload_optimizer.device=nvme: .*set it to cpu",
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/d"}}},
            r"zero_optimization.offload_param.device=nvme: ",
        ),
    ],
)
def test_what_contradicts_the_recipe_is_refused(tmp_path, content, message):
    file = tmp_path / "ds.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        resolve_deepspeed(settings(file), world_size=1, micro_batch_size=1, micro_batches_per_step=1)


@pytest.mark.parametrize(
    ("key", "quantization", "message"),
    [
        (
            "zero_quantized_nontrainable_weights",
            None,
            "quantises frozen weights in fp16 alone; remove it, and set model.llm",
        ),
        ("zero_quantized_weights", "int8", "would read 8-bit weights as numbers"),
        ("stage3_use_all_reduce_for_fetch_params", "int8", "would read 8-bit weights as numbers"),
        ("zero_quantized_weights", None, None),
        ("stage3_use_all_reduce_for_fetch_params", None, None),
    ],
)
def test_ways_of_deepspeed_that_would_spoil_8_bits_are_refused(tmp_path, key, quantization, message):
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3, key: True}, "bf16": {"enabled": "auto"}}))
    model = {**RECIPE["model"], "llm": {**RECIPE["model"]["llm"], "quantization": quantization}}
    recipe = parse_settings({**RECIPE, "model": model, "training": {"deepspeed": str(file)}}, "test")
    if message is None:
        assert resolve_deepspeed(recipe, world_size=1, micro_batch_size=1, micro_batches_per_step=1)
        return
    with pytest.raises(UserError, match=message) as caught:
        resolve_deepspeed(recipe, world_size=1, micro_batch_size=1, micro_batches_per_step=1)
    assert str(caught.value).startswith(f"training.deepspeed={file}: zero_optimization.{key}=true: ")


def test_a_file_that_says_nothing_of_gradients_gets_fp32(tmp_path):
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3}, "bf16": {"enabled": "auto"}}))
    config = resolve_deepspeed(settings(file), world_size=1, micro_batch_size=1, micro_batches_per_step=1)
    assert config["data_types"] == {"grad_accum_dtype": "fp32"}
    assert config["communication_data_type"] == "fp32"


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        resolve_deepspeed(settings(tmp_path / "no.json"), world_size=1, micro_batch_size=1, micro_batches_per_step=1)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        resolve_deepspeed(settings(tmp_path / "bad.json"), world_size=1, micro_batch_size=1, micro_batches_per_step=1)
    (tmp_path / "twice.json").write_text('{"zero_optimization": {"stage": 3, "overlap_comm": true, "stage": 2}}')
    with pytest.raises(UserError, match="key 'stage' stands twice"):
        resolve_deepspeed(settings(tmp_path / "twice.json"), world_size=1, micro_batch_size=1, micro_batches_per_step=1)
