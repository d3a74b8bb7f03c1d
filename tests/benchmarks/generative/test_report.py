"""The report of a made-up run: figures are those of the sums, dialogues stand side by side, all languages are shown."""

import json
from dataclasses import replace

import pytest

from benchmarks.generative.budgets import SMOKE
from benchmarks.generative.data import write_rows
from benchmarks.generative.plan import Plan
from benchmarks.generative.report import write_generative_report
from mtllm_ds.atomic import write_json

BUDGET = replace(SMOKE, name="cpu", num_heldout=4)
NLL = {"stack": 1.0, "shuffled": 2.0, "llm": 1.8, "none": 1.7, "english": 0.8}
LIKE = dict.fromkeys(("fidelity", "loops", "distinct_2", "words", "chrf", "cosine", "cosine_of_others"), 0.75)
KL = {"stack": 0.2, "shuffled": 0.9, "llm": 0.7, "none": 0.8, "english": 0.0}


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A run in which every step was done."""
    root = tmp_path_factory.mktemp("generative")
    plan = Plan(root, BUDGET, root, root, "fp32").build()
    for step in plan.steps:
        write_json(plan.folder(step.name) / "done.json", {"seconds": 2.0, "commit": "abc", "commands": []})
    for code in ("eng_Latn", *BUDGET.languages):
        sums = {name: {"num_tokens": [10] * 4, "nll": [10 * NLL[name]] * 4, "kl": [10 * KL[name]] * 4} for name in NLL}
        write_json(
            plan.scores / f"{code}.json",
            {"groups": list("xxyz"), "sums": sums, "answers": {"stack": LIKE, "llm": LIKE}},
        )
        sides = {"english": "a <b>", "teacher": "t", "stack": "s", "llm": "l"}
        rows = [{"id": name, "language": code, "prompt": f"{code} {name}", **sides} for name in "abcd"]
        write_rows(plan.scores / f"{code}.answers.jsonl", rows)
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "eval_kl": 1.5, "eval_loss": 1.5}, {"step": 3, "loss": 1.0}]
    write_rows(plan.run / "metrics.jsonl", rows)
    return plan


def test_figures_dialogues_and_the_verdict(plan, tmp_path):
    verdict = write_generative_report(plan, tmp_path)
    assert verdict.status == "confirmed"
    figures = json.loads((tmp_path / "summary.json").read_text())
    assert figures["deu_Latn/stack/nll"] == pytest.approx(1.0)
    assert figures["gaz_Latn/none/kl"] == pytest.approx(0.8)
    assert figures["deu_Latn/stack-llm/mean"] == pytest.approx(-0.8)
    assert figures["deu_Latn/stack/fidelity"] == 0.75
    assert figures["kl_share"] == pytest.approx(0.25)
    assert figures["last_validation_kl"] == 1.5
    page = (tmp_path / "report.html").read_text()
    assert "a &lt;b&gt;" in page
    assert "gaz_Latn*" in page
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    table = (tmp_path / "table.md").read_text()
    assert verdict.line in table
    dialogues = (tmp_path / "dialogues.md").read_text()
    assert dialogues.count("\n## ") == BUDGET.num_examples
    assert [code for code in BUDGET.languages if f"## {code}" in dialogues] == list(BUDGET.languages)
