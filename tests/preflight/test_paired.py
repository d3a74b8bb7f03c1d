"""When the teacher goes beside the student: by itself where that holds, refused in one line where it was asked for and does not."""

import pytest

from mtllm_ds.errors import UserError
from mtllm_ds.models.pairing import Pairing
from mtllm_ds.preflight import paired
from mtllm_ds.preflight.plan import check_run, describe_plan
from tests.fixtures.runs import REPOSITORY, make_run, settings_of

BESIDE = "teacher     the LLM itself, layer by layer beside the student (model.paired_sweep)"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("paired"))


def lines(recipe, **overrides):
    text = describe_plan(check_run(settings_of(recipe, **overrides), 2)).splitlines()
    return [line for line in text if line.startswith("teacher ")]


def test_by_itself_it_holds_under_zero_3_and_the_dry_run_says_so(recipe):
    assert lines(recipe) == lines(recipe, model__paired_sweep="true") == [BESIDE]
    assert lines(recipe, model__paired_sweep="false") == []


def refusal(recipe, **overrides):
    with pytest.raises(UserError) as caught:
        check_run(settings_of(recipe, model__paired_sweep="true", **overrides), 2)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_that_are_whole_are_not_gathered(recipe):
    zero2 = {"training__deepspeed": str(REPOSITORY / "ds_configs" / "zero2.json")}
    why = "ZeRO stage 2 leaves weights whole, so that there is nothing to gather"
    assert lines(recipe, **zero2) == [f"teacher     a pass of its own: {why}"]
    assert refusal(recipe, **zero2) == f"model.paired_sweep=true: {why}; set it to auto"


def test_a_run_without_the_llm_as_its_teacher_has_no_two_passes(recipe):
    alone = {"model__reader": "llm", "objective__name": "masked_next_token", "objective__mask_token": "e"}
    assert lines(recipe, **alone) == []
    assert refusal(recipe, **alone) == (
        "model.paired_sweep=true: the teacher of this run is not the LLM itself, run beside the student; set it to auto"
    )


def test_a_family_where_it_does_not_hold_is_named(recipe, monkeypatch):
    monkeypatch.setattr(paired, "pairing_of", lambda *_: Pairing(failure="its layers hand something on"))
    why = "the layers of this llama model cannot be run side by side (its layers hand something on)"
    assert lines(recipe) == [f"teacher     a pass of its own: {why}"]
    assert refusal(recipe) == f"model.paired_sweep=true: {why}; set it to auto"
