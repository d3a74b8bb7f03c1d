"""The report of a finished run: figures are those of the sums, a person finds the verdict, and a smoke run judges nothing."""

import json
from dataclasses import replace
from html import unescape

import numpy as np
import pytest

from benchmarks.balanced.budgets import SMOKE
from benchmarks.balanced.plan import Plan
from benchmarks.balanced.report import write_balanced_report
from benchmarks.balanced.students import STUDENTS, Place
from mtllm_ds.data.text.tokenization import TokenizerSpec
from mtllm_ds.data.writing.builder import build_shards
from mtllm_ds.data.writing.settings import ShardSettings
from mtllm_ds.data.writing.sources import InputFile
from mtllm_ds.evaluation.masked.report import systems_of, write_masked
from mtllm_ds.evaluation.masked.scores import LineSums, Texts
from tests.fixtures.tokenizers import save_bert_tokenizer

BUDGET = replace(SMOKE, name="cpu", seeds=(0, 1, 2))
LEVELS = {"plain": (3.0, 4.5), "balanced_taught": (3.01, 4.0)}
"""Nats per token on high- and low-resource languages; of the others the first"""


def write_scores(folder, levels, seed):
    """What `evaluate masked` leaves: 30 lines a language at about its level, a unigram model at 6 nats."""
    rng = np.random.default_rng(7)  # the same lines for all
    codes = [code for code in levels for _ in range(30)]
    tokens = rng.integers(4, 30, len(codes))
    noise = 0.02 * np.random.default_rng(seed).standard_normal(len(codes))
    nll = tokens * (np.array([levels[code] for code in codes]) + noise)
    texts = Texts(codes, ["x" * int(3 * number) for number in tokens])
    sums = {"model": LineSums(nll, tokens / 2, tokens), "unigram": LineSums(6.0 * tokens, tokens / 9, tokens)}
    write_masked(folder, sums, texts, systems_of(sums, texts, []), {})


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A run in which every step was done."""
    root = tmp_path_factory.mktemp("balanced")
    plan = Plan(Place(root, "cpu", "fp32"), BUDGET, root).build()
    tokenizer = save_bert_tokenizer(plan.place.tokenizer)
    inputs = []
    for code in BUDGET.languages:
        (root / f"{code}.jsonl").write_text('{"text": "one two three"}\n' * 3)
        inputs.append(InputFile(path=str(root / f"{code}.jsonl"), language=code))
    spec = TokenizerSpec(name=str(tokenizer), side="llm")
    for name in ("train", "balanced"):
        build_shards(ShardSettings(inputs=tuple(inputs), llm=spec), plan.place.shards(name), num_workers=1)
    for step in plan.steps:
        if step.name.startswith("transfer/"):
            continue
        folder = plan.folder(step.name)
        (folder / "run").mkdir(parents=True)
        (folder / "done.json").write_text(json.dumps({"seconds": 2.0, "commit": "abc"}))
        (folder / "model").mkdir()
        (folder / "model" / "mtllm_ds.json").write_text('{"step": 20}')
        samples = {"step": 10} | {f"samples/{code}": 10.0 for code in BUDGET.languages}
        validations = []
        if step.name.startswith("students/balanced_taught"):
            for number, nll in ((0, 6.0), (20, 3.0 + 0.1 * int(step.name[-1]))):
                own = {"eval_teacher_nll": 2.5, "eval_nll": nll}
                of_languages = {f"{name}/{code}": value for name, value in own.items() for code in BUDGET.languages}
                validations.append({"step": number, **own, **of_languages})
        rows = [*validations[:1], samples, *validations[1:]]
        (folder / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        kind, *names = step.name.split("/")
        seed = int(step.name[-1]) if names else 0
        if kind == "students":
            high, low = LEVELS.get(names[0], LEVELS["plain"])
            levels = dict.fromkeys(BUDGET.high, high) | dict.fromkeys(BUDGET.low, low)
            write_scores(plan.scores(step.name), levels, seed)
        elif kind == "teachers":
            write_scores(plan.scores(step.name), {names[1]: 2.5}, seed)
    (root / "data" / "test").mkdir(parents=True)
    for code in BUDGET.languages:
        rows = (json.dumps({"text": "x", "english": str(number)}) + "\n" for number in range(30))
        (root / "data" / "test" / f"{code}.jsonl").write_text("".join(rows))
    (root / "data" / "data.json").write_text('{"read": {}}')
    return plan


@pytest.fixture(scope="module")
def report(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return write_balanced_report(plan, folder), folder


def test_what_was_built_in_is_found(report):
    verdict, folder = report
    assert verdict.status == "confirmed"
    figures = json.loads((folder / "summary.json").read_text())
    assert figures["plain/low/nll"] == pytest.approx(4.5, abs=0.02)
    assert figures["balanced_taught-plain/low/mean"] == pytest.approx(-0.5, abs=0.02)
    assert figures["balanced_taught-plain/high/mean"] == pytest.approx(0.01, abs=0.02)
    assert figures["plain/deu_Latn/unigram_nll"] == pytest.approx(6.0)
    assert figures["plain/low/nll_per_byte"] == pytest.approx(1.5, abs=0.01)
    assert figures["plain/high/mrr"] == pytest.approx(0.5)
    assert json.loads((folder / "verdict.json").read_text())["line"] == verdict.line


def test_a_person_finds_everything(report):
    verdict, folder = report
    page, table = unescape((folder / "report.html").read_text()), (folder / "table.md").read_text()
    for student in STUDENTS:
        assert student.title in page
        assert student.title in table
    assert verdict.line in table
    assert "| khm_Khmr | 2.49" in table  # what its teacher knows
    assert "| language | teacher | student, step 0 | student, step 20 |" in table
    assert "| khm_Khmr | 2.500 | 6.000 | 3.100 |" in table
    assert table.split("How often each line was read")[1].count("| 6.67 |") >= len(
        STUDENTS
    )  # 20 of 3 lines up to the step
    assert "minus balanced" in verdict.line
    assert 'id="verdict"' in page
    assert "data:image/png;base64" in page
    assert (folder / "students.png").read_bytes().startswith(b"\x89PNG")
    assert "abc" in json.loads((folder / "provenance.json").read_text())["commits"]


def test_a_smoke_run_judges_nothing(plan, tmp_path):
    smoke = replace(plan, budget=replace(plan.budget, name="smoke"))
    assert write_balanced_report(smoke, tmp_path).status == "not judged"
