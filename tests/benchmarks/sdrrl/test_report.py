"""The report of a made-up run: figures are those of the sums, what is missing is told, answers stand side by side."""

import json
from dataclasses import replace

import pytest

from benchmarks.sdrrl.budgets import SMOKE
from benchmarks.sdrrl.collect import row_scores
from benchmarks.sdrrl.evaluate import READINGS
from benchmarks.sdrrl.plan import Plan
from benchmarks.sdrrl.report import write_sdrrl_report
from benchmarks.sdrrl.text import write_rows
from mtllm_ds.atomic import write_json

BUDGET = replace(SMOKE, name="cpu", seeds=(0, 1, 2))
CODES = ("eng_Latn", *BUDGET.languages)
LIKE = dict.fromkeys(("fidelity", "loops", "empty", "distinct_2", "words", "chrf"), 0.5)
LEVELS = {"untouched": (3.5, 2.0, 0), "sdrrl": (3.0, 2.0, 1), "reference": (2.9, 2.1, 1), "on_policy": (2.95, 2.0, 1)}
"""Nats per token in the languages learnt, in English, and whether answers are in the language asked"""


def found_of(name):
    target, english, faithful = LEVELS[name]
    human = {}
    for code in CODES:
        level = english if code == "eng_Latn" else target
        sums = {"num_tokens": [10] * 6, "nll": [10 * level] * 6}
        human[code] = {"names": list("abcdef"), **{reading: dict(sums) for reading in READINGS}}
    human["eng_Latn"]["continuation"]["kl"] = [0.5] * 6
    shares = {"faithful": [faithful] * 3, "no_other": [1] * 3}
    answers = {code: {"names": list("xyz"), **shares, "figures": LIKE} for code in CODES}
    return {"human": human, "answers": answers}


@pytest.fixture
def plan(tmp_path):
    """Not all is done: rows are missing, and a seed of one."""
    plan = Plan(tmp_path / "run", BUDGET, tmp_path, tmp_path, "cpu", "fp32").build()
    for step in plan.steps:
        write_json(plan.folder(step.name) / "done.json", {"seconds": 2.0, "commit": "abc", "commands": []})
    for name, seeds in (("untouched", (0,)), ("sdrrl", (0, 1, 2)), ("reference", (0, 1)), ("on_policy", (0,))):
        for seed in seeds:
            write_json(plan.found(name, seed) / "found.json", found_of(name))
            rows = [
                {
                    "id": one,
                    "language": code,
                    "prompt": f"{code} {one}",
                    "english": "a <b>",
                    "teacher": "t",
                    "answer": f"{name} says",
                }
                for code in CODES
                for one in "xyz"
            ]
            write_rows(plan.found(name, seed) / "answers.jsonl", rows)
    write_json(plan.folder("pairs") / "material.json", {"used": {"train": 5}, "pairs": {"sdrrl": {"q": 1}}})
    write_json(plan.folder("more_pairs/with_completion") / "material.json", {"pairs": {"with_completion": {"c": 2}}})
    return plan


def test_figures_answers_what_is_missing_and_the_verdict(plan, tmp_path):
    verdict = write_sdrrl_report(plan, tmp_path / "report")
    assert verdict.status == "confirmed"
    figures = json.loads((tmp_path / "report/summary.json").read_text())
    assert figures["sdrrl/nll_alone"] == pytest.approx(3.0)
    assert figures["sdrrl/deu_Latn/nll_continuation"] == pytest.approx(3.0)
    assert figures["reference/english_nll_alone"] == pytest.approx(2.1)
    assert figures["untouched/fidelity"] == 0
    assert figures["untouched/in_no_other"] == 1
    assert figures["sdrrl/english_kl"] == pytest.approx(0.05)
    table = (tmp_path / "report/table.md").read_text()
    assert table.startswith(verdict.line)
    assert "Not done yet: reference/seed-2, sdrrl_kl/seed-0" in table
    assert "minus SDRRL" in table
    assert "+0.100" in table.split("SDRRL (code-switch ratio 0.2) minus reference")[1].splitlines()[0]
    page = (tmp_path / "report/report.html").read_text()
    assert "a &lt;b&gt;" in page
    assert (tmp_path / "report/rows.png").read_bytes()[:4] == b"\x89PNG"
    answers = (tmp_path / "report/answers.md").read_text()
    assert answers.count("\n## ") == 3 * len(BUDGET.languages)
    assert "**on-policy**: on_policy says" in answers
    material = json.loads((tmp_path / "report/provenance.json").read_text())["material"]
    assert material == {"used": {"train": 5}, "pairs": {"sdrrl": {"q": 1}, "with_completion": {"c": 2}}}


def test_scores_are_by_seed(plan):
    scores = row_scores(plan)
    assert scores["reference"].seeds == (0, 1)
    assert scores["sdrrl"].nll["deu_Latn"]["alone"].values.shape == (6, 3)
    assert "sdrrl_kl" not in scores
