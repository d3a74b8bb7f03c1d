"""8-bit weights of the LLM before any weight is loaded: said in a line, refused in one, and on paper as large as they are."""

import pytest
from transformers import GPT2Config, GPT2Model

from mtllm_ds.errors import UserError
from mtllm_ds.planning.paper import text_of
from mtllm_ds.planning.plan import Planner
from mtllm_ds.preflight.plan import check_run, describe_plan
from mtllm_ds.preflight.start import warnings_of
from tests.fixtures.dialogue_runs import make_dialogue_run
from tests.fixtures.runs import make_run, settings_of
from tests.planning.test_plan import PERFECT

LINE = "LLM         its layers' weights have 8 bits and a step per output (model.llm.quantization=int8)"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("quantized"))


def test_the_dry_run_says_so(recipe):
    found = {
        bits: describe_plan(check_run(settings_of(recipe, model__llm__quantization=bits), 2)).splitlines()
        for bits in ("null", "int8")
    }
    assert [line for line in found["int8"] if line not in found["null"]] == [LINE]


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory):
    return make_dialogue_run(tmp_path_factory.mktemp("dialogues"))


def test_responses_that_each_token_of_dequantises_all_weights_are_told(dialogues):
    """As are cached teachers, whose weights are not in 8 bits."""

    def warnings(**overrides):
        settings = settings_of(dialogues, model__reader="llm", model__encoder="null", **overrides)
        return [line for line in warnings_of(settings, None) if "int8" in line]

    int8 = {"model__llm__quantization": "int8"}
    assert warnings(**int8) == []
    writes = {"objective__rollouts__max_new_tokens": 4}
    assert warnings(**writes) == []
    (said,) = warnings(**int8, **writes)
    assert said.startswith("model.llm.quantization=int8: responses are written token by token")
    (said,) = warnings(**int8, data__targets="plain")
    assert said.startswith(
        "model.llm.quantization=int8: data.targets=plain were written by a teacher whose weights are not in 8"
    )


def test_a_model_whose_matrices_stand_elsewhere_is_refused_before_anything_is_loaded(recipe):
    GPT2Model(GPT2Config(vocab_size=512, n_embd=24, n_layer=2, n_head=2)).config.save_pretrained(recipe.parent / "gpt2")
    name = str(recipe.parent / "gpt2")
    with pytest.raises(UserError) as caught:
        check_run(settings_of(recipe, model__llm__name=name, model__llm__quantization="int8"), 2)
    assert str(caught.value).startswith("model.llm.quantization=int8: this gpt2 model holds matrices of its layers in")
    assert "\n" not in str(caught.value)


def test_plans_count_weights_and_bytes_apart(recipe):
    plans = []
    for bits in ("null", "int8"):
        settings = settings_of(recipe, model__llm__quantization=bits, training__precision="bf16")
        plans.append(Planner(settings, text_of(settings, None, None)).plan(PERFECT))
    plain, quantised = plans
    assert quantised.trace.num_frozen == plain.trace.num_frozen
    assert quantised.trace.num_trained == plain.trace.num_trained
    assert quantised.trace.flops == plain.trace.flops
    matrices = 2 * (2 * 24 * 24 + 2 * 24 * 12 + 3 * 24 * 40)
    steps = 2 * (2 * 24 + 2 * 12 + 2 * 40 + 24)
    assert plain.kept.weights - quantised.kept.weights == 2 * matrices - (matrices + 2 * steps)
