"""The steps of the generative benchmark: each after what it needs, a training of the recipe that the trainer takes, and resumes."""

from pathlib import Path

import pytest

from benchmarks.generative.budgets import BUDGETS, CPU, SMOKE, UNKNOWN_TO_E5
from benchmarks.generative.plan import RECIPE, Plan
from benchmarks.steps import _check
from mtllm_ds.config import load_settings


def plan_of(budget, root=Path("runs/generative/x"), **changes):
    return Plan(root, budget, Path("assets/text"), Path("runs/public"), "cpu", "bf16", **changes).build()


def test_descriptions_are_read_where_they_are_given():
    (command,) = plan_of(CPU, descriptions=Path("ddtp")).steps[1].commands
    assert command[command.index("--descriptions") + 1] == "ddtp"
    assert "--descriptions" not in plan_of(SMOKE).steps[1].commands[0]


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=lambda budget: budget.name)
def test_steps_come_after_what_they_need_and_the_training_is_accepted(budget):
    plan = plan_of(budget)
    _check(plan.steps)
    settings = load_settings(RECIPE, plan.overrides())
    assert settings.data.lanes * settings.data.samples_per_cell == budget.samples_per_step
    assert settings.optim.connector_learning_rate == pytest.approx(settings.optim.learning_rate / 30, rel=0.01)
    assert settings.run.max_steps == budget.steps
    assert settings.model.llm.max_length == budget.max_length


def test_a_killed_training_goes_on_and_an_export_is_kept(tmp_path):
    plan = plan_of(SMOKE, tmp_path)
    step = next(step for step in plan.steps if step.name == "stack")
    train, export = step.commands()
    assert "--resume" not in train
    assert "export" in export
    (plan.run / "checkpoints" / "step_0000002").mkdir(parents=True)
    assert "--resume" in step.commands()[0]
    plan.model.mkdir()
    assert len(step.commands()) == 1


def test_translations_enter_training_only_where_asked():
    for parallel in (True, False):
        text = next(step for step in plan_of(SMOKE, parallel=parallel).steps if step.name == "text")
        assert ("--parallel" in text.commands[0]) == parallel


def test_at_least_eight_languages_count():
    assert len(set(CPU.languages) - set(UNKNOWN_TO_E5)) >= 8


def test_held_out_prompts_are_asked_by_the_product_in_english():
    plan = plan_of(SMOKE)
    (command,) = next(step for step in plan.steps if step.name == "scores").commands
    evaluated = command[command.index("mtllm_ds") :]
    assert evaluated[1:3] == ["evaluate", "generation"]
    assert evaluated[evaluated.index("--answers-in") + 1] == "eng_Latn"
    assert plan.found.parent == Path(evaluated[-1])
