"""Which settings may change between a run and its resumption, without running anything."""

from dataclasses import asdict, replace

import pytest

from mtllm_ds.checkpoint.store import CheckpointState
from mtllm_ds.errors import UserError
from mtllm_ds.preflight.resume import changed_on_the_way, require_same_run
from tests.fixtures.runs import make_run, settings_of

BASES = {"encoder": {"name": "mt", "revision": None, "fingerprint": "a"}}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("resume"))


def state_of(settings):
    return CheckpointState(
        step=1, num_updates=1, cursor={}, settings=settings.model_dump(mode="json"), bases=BASES, metrics={}
    )


def test_a_run_of_before_a_setting_existed_means_its_default(recipe):
    settings = settings_of(recipe)
    state = state_of(settings)
    for section, names in (
        ("model", ("reader", "start", "merge_start_lora")),
        ("objective", ("token_weight", "select_by")),
        ("run", ("seeds",)),
    ):
        for name in names:
            del state.settings[section][name]
    for name in ("trainable", "centring", "centring_text", "centring_documents"):
        del state.settings["model"]["connector"][name]
    require_same_run(settings, BASES, state)
    with pytest.raises(UserError, match=r"model\.connector\.trainable=False, but the run was started with None;"):
        require_same_run(settings_of(recipe, model__connector__trainable="false"), BASES, state)


def test_logging_may_change_and_the_method_may_not(recipe):
    state = state_of(settings_of(recipe))
    require_same_run(settings_of(recipe, run__log_every=7), BASES, state)
    with pytest.raises(UserError, match=r"model.start="):
        require_same_run(settings_of(recipe, model__start="elsewhere"), BASES, state)
    other = {"encoder": {**BASES["encoder"], "fingerprint": "b"}}
    with pytest.raises(UserError, match="other weights"):
        require_same_run(settings_of(recipe), other, state)
    alone = settings_of(recipe, model__reader="llm", objective__name="simcse")
    require_same_run(alone, other, state_of(alone))  # it does without the encoder
    assert asdict(state)["task"] is None


TAUGHT = {
    "model__reader": "llm",
    "objective__name": "balanced_teachers",
    "objective__teacher_of__eng_Latn": "here",
}


def test_of_an_objective_places_and_speed_may_change(recipe):
    started_with = {"teacher_of.eng_Latn": {"name": "here", "revision": None, "fingerprint": "b"}}
    state = replace(state_of(settings_of(recipe, **TAUGHT)), bases=started_with)
    moved = {
        "objective__teacher_of__eng_Latn": "{name: there, revision: v2}",
        "objective__teachers_on_device": 1,
        "objective__shard_teachers": "true",
        "objective__select_by": "kl",
    }
    bases = {"teacher_of.eng_Latn": {"name": "there", "revision": "v2", "fingerprint": "b"}}
    now = settings_of(recipe, **{**TAUGHT, **moved})
    before = require_same_run(now, bases, state)
    (line,) = changed_on_the_way(now, before)
    assert line.startswith(
        "--resume: objective.select_by='kl', but the run had None: the best checkpoint is picked anew"
    )
    bases["teacher_of.eng_Latn"]["fingerprint"] = "c"
    with pytest.raises(UserError, match=r"objective\.teacher_of\.eng_Latn=there holds other weights"):
        require_same_run(now, bases, state)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"objective__alpha": 0.25}, "objective.alpha=0.25, but the run was started with 0.5;"),
        (
            {"objective__teacher_of__deu_Latn": "x"},
            "objective.teacher_of.deu_Latn={'name': 'x', 'revision': None, 'trust_remote_code': False}, but the run was "
            "started with None;",
        ),
    ],
)
def test_the_deepest_key_that_changed_is_named(recipe, change, told):
    state = state_of(settings_of(recipe, **TAUGHT))
    with pytest.raises(UserError) as caught:
        require_same_run(settings_of(recipe, **{**TAUGHT, **change}), {}, state)
    assert str(caught.value).startswith(f"--resume: {told} put it back")


def test_of_another_objective_the_name_is_told(recipe):
    with pytest.raises(
        UserError, match=r"objective\.name='task_tuning', but the run was started with 'pooled_alignment'"
    ):
        require_same_run(settings_of(recipe, objective__name="task_tuning"), {}, state_of(settings_of(recipe)))


def test_a_run_of_version_0_1_saved_the_settings_of_all_objectives(recipe):
    settings = settings_of(recipe)
    state = state_of(settings)
    state.settings["objective"] |= {"teacher": None, "match": "vectors", "mask_share": 0.2, "temperature": 0.05}
    require_same_run(settings, BASES, state)


def test_what_changes_the_rest_of_a_run_is_told(recipe):
    before = settings_of(recipe)
    now = settings_of(
        recipe,
        optim__learning_rate=1e-3,
        run__max_steps=80,
        data__validation=recipe.parent / "train",
        run__log_every=7,
        run__validate_at_start=True,
    )
    lines = changed_on_the_way(now, before)
    assert [line.split("=")[0] for line in lines] == [
        "--resume: optim.learning_rate",
        "--resume: run.validate_at_start",
        "--resume: run.max_steps",
        "--resume: data.validation",
    ]
    assert "but the run had 0.01: steps from here on differ" in lines[0]
    assert changed_on_the_way(before, before) == []


def test_fewer_steps_than_were_made_are_refused(recipe):
    state = replace(state_of(settings_of(recipe)), step=9)
    with pytest.raises(UserError, match=r"run\.max_steps=8, but the run has made 9 steps"):
        require_same_run(settings_of(recipe), BASES, state)
    require_same_run(settings_of(recipe, run__max_steps=9), BASES, state)
