"""The plan of every budget: steps in order, recipes that the trainer accepts, the protocol's parts all there."""

import json
from pathlib import Path

import pytest

from benchmarks.quality.claim.backbone import BackbonePlan
from benchmarks.quality.claim.backbone_steps import best_figure
from benchmarks.quality.claim.budgets import BUDGETS, budget_of, place_of
from benchmarks.quality.claim.plan import Plan
from benchmarks.quality.claim.report import NOTES
from benchmarks.quality.claim.trainings import LEARNERS, STAGE2, Training
from benchmarks.quality.claim.variants import PLAIN, VARIANTS
from benchmarks.quality.claim.verdict import Rules
from benchmarks.quality.quality import require_same
from benchmarks.quality.text.frozen import MANIFESTS
from benchmarks.steps import _check
from mtllm_ds.config import load_settings
from mtllm_ds.errors import UserError

LANGUAGES = ["deu_Latn", "fra_Latn", "jpn_Jpan"]


def plan_of(root: Path, budget: str, headline: str | None = None) -> Plan:
    plan = Plan(
        root=root, budget=BUDGETS[budget], text=Path("help"), mt="assets/mt", languages=LANGUAGES,
        development=["deu_Latn", "jpn_Jpan"], headline=headline,
        choice=root / "minilm" / "choice" / "choice.json",
    )  # fmt: skip
    plan.add_shared()
    return plan


@pytest.mark.parametrize("budget", list(BUDGETS))
def test_every_system_is_trained_and_asked_with_every_seed(tmp_path, budget):
    plan = plan_of(tmp_path, budget)
    BackbonePlan(plan, "minilm").build(["mt-25", "mt-50"])
    _check(plan.steps)
    names = {step.name for step in plan.steps}
    for seed in plan.budget.seeds:
        assert {f"minilm/{learner.name}/seed-{seed}" for learner in LEARNERS} <= names
        for system in ("llm_direct", "mt_encoder", "translate_train", "mtllm_direct", "mtllm_stage2", "ridge",
                       "translate_test_greedy", "translate_test_beam4", "translate_test_tuned"):  # fmt: skip
            assert f"minilm/eval/{system}-{seed}" in names
    assert {"minilm/eval/wrong_tag-0", "minilm/eval/shuffled_connector-0", "minilm/ladder/1"} <= names
    assert {f"minilm/variants/{name}/stage2" for name in (PLAIN, *plan.budget.variants)} <= names
    assert {f"minilm/ablations/{name}/stage2" for name in plan.budget.ablations} <= names


def test_the_verdict_needs_no_optional_step(tmp_path):
    plan = plan_of(tmp_path, "cpu")
    BackbonePlan(plan, "minilm").build(["mt-25"])
    optional = {step.name for step in plan.steps if step.optional}
    assert {
        "minilm/ladder/0",
        "minilm/ladder/0/stage1",
        "minilm/ablations/mlp/stage1",
        "minilm/ablations/mlp/stage2",
    } <= optional
    assert not any(optional.intersection(step.needs) for step in plan.steps if not step.optional)
    needed = {step.name for step in plan.steps} - optional
    assert {"minilm/choice", "minilm/stage2/seed-2", "minilm/eval/ridge-2", "translate/round_trip"} <= needed
    assert {
        "minilm/direct/seed-0",
        "minilm/eval/mt_encoder-1",
        "minilm/translate_train/seed-2",
        "translate/train",
    } <= optional


def test_a_stage1_on_parallel_text_waits_for_its_vectors(tmp_path):
    plan = plan_of(tmp_path, "parallel")
    BackbonePlan(plan, "minilm").build([])
    needs = {step.name: step.needs for step in plan.steps}
    assert "minilm/targets/parallel" in needs["minilm/variants/parallel_at_teacher/stage1"]
    assert "minilm/targets/parallel" in needs["minilm/stage1/seed-1"]
    assert needs["minilm/targets/parallel"] == ("minilm/shards/parallel",)
    assert not any("parallel" in need for need in needs["minilm/variants/plain/stage1"])


def test_only_the_run_that_was_announced_says_so():
    announced = {"parallel", "cpu-ddtp_topics"}
    for name in BUDGETS:
        for task in MANIFESTS:
            place = place_of(name, task)
            notes = " ".join(NOTES.get(place, NOTES[task]))
            assert ("Fixed on" in notes) == (place in announced), place


def test_learners_share_learning_rates_and_steps(tmp_path):
    plan = plan_of(tmp_path, "cpu")
    backbone = BackbonePlan(plan, "minilm")
    backbone.build([])
    for learner in LEARNERS:
        assert list(backbone._pilot_names(learner.name)) == list(plan.budget.learning_rates)


def settings_of(training: Training):
    return load_settings(training.arguments[1], [*training.arguments[2:], "run.output_dir=run"])


@pytest.mark.parametrize("backbone", ["minilm", "llama"])
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_recipes_are_accepted_by_the_trainer(tmp_path, variant, backbone):
    plan, changed = BackbonePlan(plan_of(tmp_path, "cpu"), backbone), VARIANTS[variant]
    if changed.stage1 is not None:
        stage1 = settings_of(plan._stage1_training(7, 1e-3, 1, changed))
        assert (stage1.objective.name, stage1.run.seed, stage1.run.max_steps) == ("pooled_alignment", 1, 7)
        is_slower = stage1.model.connector.init == "least_squares"
        assert (stage1.optim.connector_learning_rate is not None) == is_slower
    start = None if changed.stage1 is None else tmp_path / "export"
    for learner in LEARNERS:
        own = start if learner.is_stacked else None
        settings = settings_of(plan._task_training(learner, 7, 2e-3, 2, own, changed))
        assert settings.model.reader == learner.reader
        assert settings.objective.name == f"task_{learner.recipe}"
        assert settings.objective.selected_by == "accuracy"
        if learner.is_stacked and changed.stage1 is not None:
            assert settings.model.connector.type == stage1.model.connector.type
        assert settings.optim.learning_rate == 2e-3
        if learner is STAGE2:
            assert settings.data.targets == "teacher-2"
            assert settings.objective.teacher.endswith("teacher/seed-2/export")


def test_the_learning_rate_is_that_of_the_best_pilot(tmp_path):
    plan = BackbonePlan(plan_of(tmp_path, "smoke"), "minilm")
    for rate, accuracy in zip(plan.budget.learning_rates, (0.4, 0.5), strict=True):
        run = tmp_path / "minilm" / "teacher" / f"pilot-{rate:g}" / "run"
        run.mkdir(parents=True)
        rows = [
            f'{{"step": 1, "eval_accuracy": {accuracy}}}',
            '{"step": 2, "loss": 1.0}',
            '{"step": 2, "eval_accuracy": 0.1}',
        ]
        (run / "metrics.jsonl").write_text("\n".join(rows))
    assert plan.rate("teacher") == plan.budget.learning_rates[1]


def test_stage1_is_judged_by_its_fvu(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "eval_fvu": 0.7}\n{"step": 2, "eval_fvu": 0.4}\n')
    assert best_figure(tmp_path) == -0.4


@pytest.mark.parametrize("name", list(BUDGETS))
def test_package_descriptions_are_long_and_many(name):
    help_text, packages = budget_of(name, "lohelp_modules"), budget_of(name, "ddtp_topics")
    assert help_text == BUDGETS[name]
    assert packages.train_items == min(2000, help_text.train_items or 2000)
    assert packages.max_length <= packages.tokens_per_cell or name == "smoke"
    protocol = ("seeds", "learning_rates", "stage1_steps", "task_steps", "beams")
    assert all(getattr(packages, field) == getattr(help_text, field) for field in protocol)


def test_the_cpu_budget_of_package_descriptions():
    budget = budget_of("cpu", "ddtp_topics")
    assert (budget.max_length, budget.test_items, budget.seeds) == (128, 360, (0, 1, 2))
    assert budget.test_items >= Rules().min_items


def test_an_older_run_goes_on_where_a_limit_has_come_in_since(tmp_path):
    path = tmp_path / "settings.json"
    settings = {"budget": {"name": "cpu", "valid_items": None}, "task": "lohelp_modules"}
    path.write_text(json.dumps({"budget": {"name": "cpu"}, "task": "lohelp_modules"}))
    require_same(path, settings)
    with pytest.raises(UserError, match=r"other settings \(budget\)"):
        require_same(path, settings | {"budget": {"name": "cpu", "valid_items": 3}})
