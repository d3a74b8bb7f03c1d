"""A mistake in a recipe or an override is one line that names key, value and the nearest valid key."""

import pytest
import yaml

from mtllm_ds.config import load_settings, to_yaml
from mtllm_ds.errors import UserError

RECIPE = {
    "run": {"output_dir": "runs/x", "max_steps": 5},
    "model": {"encoder": {"name": "a"}, "llm": {"name": "b"}},
    "data": {"train": "c"},
}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def test_overrides_replace_values_of_the_recipe(recipe):
    settings = load_settings(
        recipe, ["optim.learning_rate=1e-4", "run.max_steps=50", "model.lora.target_modules=[q_proj]"]
    )
    assert settings.optim.learning_rate == 1e-4
    assert settings.run.max_steps == 50
    assert settings.model.lora.target_modules == ["q_proj"]


def test_printed_settings_are_a_recipe_again(recipe, tmp_path):
    settings = load_settings(recipe, ["model.connector.type=mlp"])
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(settings))
    assert load_settings(again) == settings


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("optim.learningrate=1", ("optim.learningrate", "1", "'optim.learning_rate'")),
        ("optim.lr=1", ("optim.lr", "'optim.learning_rate'")),
        ("modle.lora.rank=2", ("modle", "valid key: 'model'")),
        ("learning_rate=1", ("learning_rate", "'optim.learning_rate'")),
        ("model.encoder.max_len=3", ("model.encoder.max_len", "'model.encoder.max_length'")),
        ("optim.learning_rate=fast", ("optim.learning_rate", "'fast'", "number")),
        ("run.max_steps=0", ("run.max_steps", "0", "greater than 0")),
        ("training.precision=fp16", ("training.precision", "'fp16'", "'bf16'")),
        ("model.connector.hidden_size=4", ("model.connector.hidden_size=4", "model.connector.type=mlp")),
        ("training.peak_tflops=0", ("training.peak_tflops", "0", "greater than 0")),
        ("training.flops_profiler_step=10000", ("training.flops_profiler_step=10000", "run.max_steps=")),
        ("no_equals_sign", ("no_equals_sign", "section.key=value")),
        ("model.llm.name=package:not_there/model", ("model.llm.name", "not_there", "pip")),
    ],
)
def test_a_mistake_names_key_value_and_mend(recipe, override, parts):
    with pytest.raises(UserError) as caught:
        load_settings(recipe, [override])
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_mistake_is_told_where_it_stands(recipe):
    with pytest.raises(UserError, match=r"^override optim\.lr=1: optim\.lr=1: unknown key"):
        load_settings(recipe, ["run.seed=1", "optim.lr=1"])
    recipe.write_text(recipe.read_text() + "extra: 1\n")
    with pytest.raises(UserError, match=r"^recipe .*: extra=1: unknown key"):
        load_settings(recipe, ["run.seed=1"])


def test_impossible_combinations_are_refused(recipe):
    for overrides in (
        ["model.attention=flash_attention_2", "training.precision=fp32"],
        ["model.connector.type=mlp", "model.connector.init=least_squares"],
    ):
        with pytest.raises(UserError, match="set "):
            load_settings(recipe, overrides)


def test_missing_recipe_and_missing_key(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_settings(tmp_path / "none.yaml")
    path = tmp_path / "half.yaml"
    path.write_text("run: {output_dir: x}\n")
    with pytest.raises(UserError, match=r"missing key 'run\.max_steps'"):
        load_settings(path)
    path.write_text("run: [")
    with pytest.raises(UserError, match=r"half\.yaml"):
        load_settings(path)


def test_the_line_names_the_override_that_counts():
    """The last one given, and also where the mistake lies inside its value."""
    good = "data.train=somewhere"
    for wrong, key in (
        ("data.train=[{path: a, weight: -1}, {path: b}]", "data.train.weight=-1"),
        ("data.train=[{path: a}]", "data.train="),
    ):
        with pytest.raises(UserError) as caught:
            load_settings("demo", [good, wrong])
        assert str(caught.value).startswith(f"override {wrong}: {key}")
