"""The report of a made-up run: figures are those of the sums, dialogues stand side by side, all languages are shown."""

import json
from dataclasses import replace

import pytest

from benchmarks.generative.budgets import SMOKE
from benchmarks.generative.data import write_rows
from benchmarks.generative.plan import Plan
from benchmarks.generative.report import write_generative_report
from benchmarks.generative.responses import asked
from mtllm_ds.atomic import write_json
from mtllm_ds.transfer_sets.sdrrl.stages import Stage

BUDGET = replace(SMOKE, name="cpu", num_heldout=4)
NLL = {"model": 1.0, "shuffled": 2.0, "llm": 1.8, "none": 1.7, "english": 0.8}
LIKE = dict.fromkeys(("fidelity", "loops", "distinct_2", "words", "chrf", "cosine", "cosine_of_others"), 0.75)
KL = {"model": 0.2, "shuffled": 0.9, "llm": 0.7, "none": 0.8, "english": 0.0}


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A run in which every step was done."""
    root = tmp_path_factory.mktemp("generative")
    plan = Plan(root, BUDGET, root, root, "cpu", "fp32").build()
    for step in plan.steps:
        write_json(plan.folder(step.name) / "done.json", {"seconds": 2.0, "commit": "abc", "commands": []})
    for code in ("eng_Latn", *BUDGET.languages):
        rows = [
            {
                "id": name, "group": group, "language": code, "prompt": asked(f"{code} {name}"),
                "teacher_prompt": asked("a <b>"), "response": "t", "reference": "t", "num_tokens": 10,
                "nll": {reading: 10 * nll for reading, nll in NLL.items()},
                "kl": {reading: 10 * kl for reading, kl in KL.items()}, "answers": {"model": "s", "llm": "l"},
            }
            for name, group in zip("abcd", "xxyz", strict=True)
        ]  # fmt: skip
        stage = Stage(plan.found, code, {})
        stage.finish(rows, {"figures": {"model": LIKE, "llm": LIKE}})
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "eval_kl": 1.5, "eval_loss": 1.5}, {"step": 3, "loss": 1.0}]
    write_rows(plan.run / "metrics.jsonl", rows)
    return plan


def test_figures_dialogues_and_the_verdict(plan, tmp_path):
    verdict = write_generative_report(plan, tmp_path)
    assert verdict.status == "confirmed"
    figures = json.loads((tmp_path / "summary.json").read_text())
    assert figures["deu_Latn/model/nll"] == pytest.approx(1.0)
    assert figures["gaz_Latn/none/kl"] == pytest.approx(0.8)
    assert figures["deu_Latn/model-llm/mean"] == pytest.approx(-0.8)
    assert figures["deu_Latn/model/fidelity"] == 0.75
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
