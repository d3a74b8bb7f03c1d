"""The steps of the SDRRL benchmark: each after what it needs, core rows first, trainings that the trainer takes, and resumes."""

from pathlib import Path

import pytest

from benchmarks.sdrrl.budgets import BUDGETS, CPU, SMOKE
from benchmarks.sdrrl.plan import Plan
from benchmarks.sdrrl.rows import BY_NAME, ROWS, SDRRL, UNTOUCHED, WEIGHTS, seeds_of
from benchmarks.sdrrl.sdrrl import default_results
from benchmarks.steps import _check
from mtllm_ds.config import load_settings
from mtllm_ds.transfer_sets.sdrrl.pairs import PAIR_TYPES
from mtllm_ds.transfer_sets.translation.apertium import DIRECTIONS


def plan_of(budget, root=Path("runs/sdrrl_benchmark/x")):
    return Plan(root, budget, Path("assets/text"), Path("runs/public"), "cpu", "bf16").build()


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=lambda budget: budget.name)
def test_steps_come_after_what_they_need_and_trainings_are_accepted(budget):
    plan = plan_of(budget)
    _check(plan.steps)
    for row in ROWS:
        if row.pairs is None:
            continue
        settings = load_settings(row.recipe, plan.overrides(row, 1))
        assert settings.data.lanes * settings.data.samples_per_cell == budget.samples_per_step
        assert settings.run.seed == 1
        assert (
            settings.training.deepspeed == "zero2"
        )  # one rank: the recipe's ZeRO-3 would gather every layer for nothing
        on_policy = settings.objective.rollouts is not None
        assert on_policy == (row.start is not None)
        if on_policy:
            assert settings.objective.kl_weight == 1
            assert settings.model.start == str(plan.run(SDRRL, 1))
            assert settings.data.validation is not None


def test_core_rows_come_first_and_ablations_are_optional():
    names = [step.name for step in plan_of(CPU).steps if step.name.startswith("scores/")]
    assert names[:3] == [f"scores/{name}/seed-0" for name in (UNTOUCHED, SDRRL, "reference")]
    main = [f"scores/{row.name}/seed-{seed}" for row in ROWS if row.is_main for seed in seeds_of(row, CPU.seeds)]
    assert set(names[: len(main)]) == set(main)
    optional = {step.name for step in plan_of(CPU).steps if step.optional and step.name.startswith("scores/")}
    assert optional == set(names[len(main) :])


def test_every_pair_type_has_a_row_without_it_and_sdrrl_has_no_text_of_people():
    assert {f"no_{name}" for name in WEIGHTS} <= BY_NAME.keys()
    others = set(PAIR_TYPES) - WEIGHTS.keys()
    assert others == {"completion", "translation"}
    for name in WEIGHTS:
        assert BY_NAME[f"no_{name}"].pairs.weights.keys() == WEIGHTS.keys() - {name}
    for name in others:
        assert BY_NAME[f"with_{name}"].pairs.weights.keys() == WEIGHTS.keys() | {name}
    ratios = {row.pairs.code_switch_ratio for row in ROWS if row.pairs is not None}
    assert ratios == {0.0, 0.2, 0.5}


def test_the_budgets_keep_their_word():
    assert CPU.num_text + CPU.num_self - CPU.num_self_questions >= 1_000
    assert CPU.steps * CPU.samples_per_step >= 1_000
    assert len(CPU.seeds) >= 3
    for code, command in CPU.translators.items():
        assert DIRECTIONS[command.removeprefix("command:apertium ")] == ("eng_Latn", code)


def test_a_set_that_cannot_be_made_stops_no_main_row():
    plan = plan_of(CPU)
    by_name = {step.name: step for step in plan.steps}
    for step in plan.steps:
        assert step.optional or not any(by_name[name].optional for name in step.needs)
    (command,) = by_name["pairs"].commands
    assert command[command.index("--sets") + 1 : command.index("--output")] == ["sdrrl", "reference", "own_answer"]
    assert by_name["shards/no_code_switched"].needs == ("more_pairs/no_code_switched",)
    assert by_name["more_pairs/with_completion"].optional
    assert by_name["shards/with_completion"].optional


def test_results_are_kept_once_the_main_rows_are_done():
    steps = {step.name: step for step in plan_of(CPU).steps}
    main, optional = steps["scores/sdrrl/seed-2"], steps["more_pairs/with_completion"]
    kept, below = Path("benchmarks/results/sdrrl/cpu"), Path("x/report")
    assert default_results(Path("x"), CPU, [optional]) == default_results(Path("x"), CPU, []) == kept
    assert default_results(Path("x"), CPU, [optional, main]) == default_results(Path("x"), SMOKE, []) == below


def test_a_killed_training_goes_on(tmp_path):
    plan = plan_of(SMOKE, tmp_path)
    step = next(step for step in plan.steps if step.name == "train/on_policy/seed-0")
    train, export = step.commands()
    assert "--resume" not in train
    assert "export" in export
    (plan.run("on_policy", 0) / "checkpoints" / "step_0000001").mkdir(parents=True)
    assert "--resume" in step.commands()[0]


def test_rows_of_the_same_pairs_share_shards():
    steps = plan_of(CPU).steps
    shards = [step.name for step in steps if step.name.startswith("shards/")]
    assert len(set(shards)) == len(shards)
    (kl,) = [step for step in steps if step.name == "train/sdrrl_kl/seed-0"]
    assert "shards/sdrrl" in kl.needs
