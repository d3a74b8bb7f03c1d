"""What a run takes over is checked before it starts: tasks that differ, starts of another shape, settings seldom meant."""

import json
from dataclasses import asdict

import pytest

from mtllm_ds.data.shards.manifest import TaskEntry
from mtllm_ds.errors import UserError
from mtllm_ds.preflight.plan import check_run, describe_plan
from mtllm_ds.preflight.start import warnings_of
from tests.fixtures.exports import make_export
from tests.fixtures.runs import build_data, settings_of, write_text
from tests.fixtures.task_runs import TOPICS, build_task_data, make_task_run, topic_rows


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_task_run(tmp_path_factory.mktemp("parts"))


def plan(recipe, **overrides):
    return check_run(settings_of(recipe, **overrides), 1)


def test_bidirectional_attention_of_a_causal_llm_warns(recipe):
    (warning,) = plan(recipe, model__reader="llm").warnings
    assert "never adapted" in warning
    assert "\n" not in warning
    assert "never adapted" in describe_plan(plan(recipe, model__reader="llm"))
    assert plan(recipe, model__reader="llm", model__llm__bidirectional="false").warnings == []
    assert plan(recipe, model__reader="encoder").warnings == []
    config = recipe.parent / "llm" / "config.json"
    before = config.read_text()
    config.write_text(json.dumps({**json.loads(before), "is_causal": False}))
    try:
        assert plan(recipe, model__reader="llm").warnings == []
    finally:
        config.write_text(before)


def test_a_random_frozen_connector_warns(recipe):
    causal = {"model__llm__bidirectional": "false"}
    (warning,) = plan(recipe, **causal).warnings
    assert "random projection" in warning
    assert plan(recipe, model__connector__trainable="true", **causal).warnings == []
    assert plan(recipe, model__connector__init="least_squares", **causal).warnings == []


def test_shards_without_the_task_are_refused(recipe, tmp_path):
    folder = recipe.parent
    plain = build_data(tmp_path / "plain", write_text(tmp_path / "t.jsonl", 20, 0), folder / "mt", folder / "llm")
    with pytest.raises(UserError, match=r"prepare task"):
        plan(recipe, data__train=str(plain))
    with pytest.raises(UserError, match=r"data.validation=.*no task, expected the classification 'topics'"):
        plan(recipe, data__validation=str(plain))
    other = build_task_data(
        tmp_path / "other", topic_rows(9), TaskEntry("x", "classification", ("a", "b", "c")), folder
    )
    with pytest.raises(UserError, match=r"the classification 'x' \(a, b, c\)"):
        plan(recipe, data__validation=str(other))


def test_a_start_must_have_the_same_shape(recipe, tmp_path):
    # The fixtures' models are the same weights wherever they lie.
    start = str(make_export(tmp_path / "start"))
    assert plan(recipe, model__start=start).start is not None
    with pytest.raises(UserError, match="its LoRA has rank=2"):
        plan(recipe, model__start=start, model__lora__rank=4)
    assert plan(recipe, model__start=start, model__lora__rank=4, model__merge_start_lora="true").start is not None
    with pytest.raises(UserError, match="its connector has type=linear"):
        plan(recipe, model__start=start, model__connector__type="mlp")
    with pytest.raises(UserError, match="bidirectional=true"):
        plan(recipe, model__start=start, model__llm__bidirectional="false")
    with pytest.raises(UserError, match="reader=stacked"):
        plan(recipe, model__start=start, model__reader="llm")
    with pytest.raises(UserError, match=r"its vectors are pooled by mean; set model\.pooling to that"):
        plan(recipe, model__start=start, model__pooling="last")
    last = str(make_export(tmp_path / "last", pooling="last"))
    assert plan(recipe, model__start=last, model__pooling="last").start.model.pooling == "last"
    with pytest.raises(UserError, match=r"its vectors are pooled by last; set model\.pooling to that"):
        plan(recipe, model__start=last)
    with pytest.raises(UserError, match="no means by language"):
        plan(recipe, model__start=start, model__connector__centring="language")
    with pytest.raises(UserError, match="centring_text=nowhere"):
        plan(recipe, model__connector__centring="language", model__connector__centring_text="nowhere")


def test_a_teacher_must_have_a_head(recipe, tmp_path):
    teacher = str(make_export(tmp_path / "teacher"))
    with pytest.raises(UserError, match="it has no head"):
        plan(recipe, objective__name="task_distillation", objective__teacher=teacher, data__targets="x")


def test_a_teacher_is_pooled_as_the_student_is(recipe, tmp_path):
    teacher = make_export(tmp_path / "teacher", asdict(TOPICS), "llm", pooling="weighted_mean")
    asked = {"objective__name": "task_distillation", "objective__teacher": str(teacher), "data__targets": "x"}
    with pytest.raises(UserError, match=r"^objective\.teacher=.*: its vectors are pooled by weighted_mean; set model"):
        plan(recipe, **asked)
    with pytest.raises(UserError, match=r"^data\.targets=x"):
        plan(recipe, model__pooling="weighted_mean", **asked)


def test_pooling_that_is_meant_for_causal_llms_warns_of_others(recipe):
    causal = {"model__llm__bidirectional": "false"}
    for pooling in ("last", "weighted_mean"):
        chosen = {"model__pooling": pooling, "model__reader": "llm"}
        (line,) = [line for line in plan(recipe, **chosen).warnings if "model.pooling" in line]
        assert line.startswith(f"model.pooling={pooling}: is meant for causal LLMs, and this model looks both ways")
        assert line.endswith("set it to mean, or model.llm.bidirectional=false")
        assert plan(recipe, **chosen, **causal).warnings == []
        (line,) = plan(recipe, **{**chosen, "model__reader": "encoder"}).warnings
        assert line.endswith("set it to mean")
    said = {
        pooling: describe_plan(plan(recipe, model__reader="llm", model__pooling=pooling, **causal)).splitlines()
        for pooling in ("mean", "last")
    }
    (line,) = (line for line in said["last"] if line not in said["mean"])
    assert line == "vectors     of teacher and student are pooled by last (model.pooling)"


def test_a_random_connector_at_the_rate_of_a_least_squares_start_is_told(recipe):
    def warnings(**overrides):
        return [
            line for line in warnings_of(settings_of(recipe, **overrides), None) if "connector_learning_rate" in line
        ]

    slow = {
        "optim__learning_rate": "1.5e-3",
        "optim__connector_learning_rate": "1e-4",
        "model__connector__trainable": "true",
    }
    (line,) = warnings(**slow)
    assert line.endswith("remove it, and set model.connector.match_scale=true")
    (line,) = warnings(**slow, model__connector__match_scale="true")
    assert line.endswith("in hundreds of steps: remove it")
    assert warnings(**slow, model__connector__init="least_squares") == []
    assert warnings(**slow, model__start="elsewhere") == []
    assert warnings(**{**slow, "optim__connector_learning_rate": "1.5e-3"}) == []
