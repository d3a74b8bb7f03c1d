"""The report of a finished run: a table of all students, what each teacher knows, transfer, a plot, and one verdict line."""

from __future__ import annotations

import json
import os
import platform
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.balanced.collect import (
    Reading,
    Scores,
    TestLines,
    reading_of,
    student_knowledge,
    student_scores,
    teacher_nll,
    transfer_accuracy,
)
from benchmarks.balanced.picture import draw_students
from benchmarks.balanced.plan import TASK, Plan
from benchmarks.balanced.students import CLAIMED, RIVAL, STUDENTS
from benchmarks.balanced.verdict import (
    Rules,
    decide,
    difference,
    gate_failures,
    nll_of,
    unequal_reading,
    unigram_of,
)
from benchmarks.intervals import Interval
from benchmarks.step_options import markdown
from benchmarks.steps import DONE
from mtllm_ds.atomic import write_figures, write_json, write_text
from mtllm_ds.evaluation.report.html import render
from mtllm_ds.evaluation.report.parts import Picture, Report, Section, Verdict
from mtllm_ds.evaluation.report.pictures import write_image
from mtllm_ds.evaluation.report.writing import SETTING_TITLES

CAPTION = (
    "Nats per token of the masked tokens of held-out text, mean of the seeds, less is better. Left of the line high-resource "
    "languages, right of it low-resource ones; the grey bar is the unigram model."
)
Groups = Mapping[str, tuple[str, ...]]
Figures = dict[str, float]


def write_balanced_report(plan: Plan, folder: Path) -> Verdict:
    """Write `report.html`, `students.png`, `table.md`, `summary.json` (flat), `verdict.json` and `provenance.json`."""
    groups: Groups = {"high": plan.budget.high, "low": plan.budget.low}
    scores = student_scores(plan)
    intervals = comparisons(scores, groups)
    readings = {student.name: reading_of(plan, student) for student in STUDENTS}
    compared = {student.name: readings[student.name].tokens for student in STUDENTS if not student.extra_steps}
    failures = [*gate_failures(scores, groups, Rules()), *unequal_reading(compared, Rules())]
    others = {name: intervals["low", name] for name in ("balanced", "few_line_teachers", "extra_steps")}
    verdict = decide(
        failures,
        intervals["low", RIVAL],
        intervals["high", RIVAL],
        others,
        Rules(),
        is_smoke=plan.budget.name == "smoke",
    )
    sections = [
        _students(scores, groups, readings), _languages(plan, scores), _passes(plan, readings), _comparisons(intervals),
        _teachers(plan, scores), *_before_and_after(plan), *_transfer(plan),
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    picture = draw_students(scores, groups)
    write_image(folder / "students.png", picture)
    facts = _facts(plan)
    report = Report(
        title=f"Balanced multilingual students of monolingual teachers: {plan.budget.name}", tables=(), verdict=verdict,
        sections=tuple(sections), facts=facts, notes=tuple(failures),
    )  # fmt: skip
    write_text(folder / "report.html", render(report, [Picture(picture, "At a glance", CAPTION)], {}, {}))
    write_text(folder / "table.md", "\n\n".join([verdict.line, *map(markdown, sections)]) + "\n")
    write_figures(folder / "summary.json", figures_of(scores, groups, intervals))
    write_json(folder / "verdict.json", asdict(verdict))
    write_json(folder / "provenance.json", facts | {"data": _data(plan)})
    return verdict


def comparisons(scores: Scores, groups: Groups) -> dict[tuple[str, str], Interval]:
    """(group of languages, rival) -> the claimed student minus that rival. Equality is tested on both sides, so its interval leaves
    twice the level outside."""
    level = Rules().level
    return {
        (group, rival.name): difference(
            scores[CLAIMED], scores[rival.name], codes, 2 * level if group == "high" else level
        )
        for group, codes in groups.items()
        for rival in STUDENTS
        if rival.name != CLAIMED
    }


def figures_of(scores: Scores, groups: Groups, intervals: Mapping[tuple[str, str], Interval]) -> Figures:
    """Every figure by name, those of a language as in `plain/deu_Latn/nll`."""
    found: Figures = {}
    for name, languages in scores.items():
        for code, lines in languages.items():
            place = f"{name}/{code}"
            found |= {f"{place}/{key}": value for key, value in _of_language(lines).items()}
        for group, codes in groups.items():
            rows = [_of_language(languages[code]) for code in codes]
            found |= {f"{name}/{group}/{key}": float(np.mean([row[key] for row in rows])) for key in rows[0]}
    for (group, rival), interval in intervals.items():
        found |= {f"{CLAIMED}-{rival}/{group}/{key}": value for key, value in asdict(interval).items()}
    return found


def _of_language(lines: TestLines) -> Figures:
    num_tokens = lines.num_tokens.sum()
    return {
        "nll": float(nll_of(lines).mean()),
        "nll_sd": float(nll_of(lines).std(ddof=1)) if lines.nll.shape[1] > 1 else 0.0,
        "nll_per_byte": float(lines.nll.sum(0).mean() / lines.num_bytes.sum()),
        "mrr": float(lines.reciprocal_rank.sum(0).mean() / num_tokens),
        "unigram_nll": unigram_of(lines),
        "tokens": float(num_tokens),
    }


def _students(scores: Scores, groups: Groups, readings: Mapping[str, Reading]) -> Section:
    columns = ("student", "NLL low", "NLL high", "MRR low", "MRR high", "spread of seeds, low", "tokens read")
    rows = []
    for student in STUDENTS:
        own = {group: [_of_language(scores[student.name][code]) for code in codes] for group, codes in groups.items()}
        means = {
            (group, key): float(np.mean([row[key] for row in own[group]])) for group in groups for key in ("nll", "mrr")
        }
        by_seed = np.mean([nll_of(scores[student.name][code]) for code in groups["low"]], axis=0)
        rows.append(
            (
                student.title, *(f"{means[group, 'nll']:.3f}" for group in ("low", "high")),
                *(f"{means[group, 'mrr']:.3f}" for group in ("low", "high")),
                f"{by_seed.max() - by_seed.min():.3f}", f"{readings[student.name].tokens.mean() / 1e6:.2f}M",
            )
        )  # fmt: skip
    any_student = next(iter(scores.values()))
    unigram = [f"{np.mean([unigram_of(any_student[code]) for code in groups[group]]):.3f}" for group in ("low", "high")]
    rows.append(("unigram model", *unigram, "", "", "", ""))
    return Section("Students", columns, rows, text_column="student")


def _languages(plan: Plan, scores: Scores) -> Section:
    columns = ("student", *plan.budget.languages)
    rows = [
        (student.title, *(f"{nll_of(lines).mean():.3f}" for lines in scores[student.name].values()))
        for student in STUDENTS
    ]
    unigram = (f"{unigram_of(lines):.3f}" for lines in scores[RIVAL].values())
    return Section("NLL by language", columns, [*rows, ("unigram model", *unigram)], text_column="student")


def _passes(plan: Plan, readings: Mapping[str, Reading]) -> Section:
    """A student of all text reads a low-resource line less often than one of balanced text: no difference is of teachers alone."""
    rows = [
        (student.title, *(f"{readings[student.name].passes[code]:.2f}" for code in plan.budget.languages))
        for student in STUDENTS
    ]
    return Section("How often each line was read", ("student", *plan.budget.languages), rows, text_column="student")


def _comparisons(intervals: Mapping[tuple[str, str], Interval]) -> Section:
    rows = []
    for student in STUDENTS:
        if student.name != CLAIMED:
            found = [str(intervals[group, student.name]) for group in ("low", "high")]
            rows.append((student.title, *found))
    columns = ("balanced text, teachers minus", "low-resource, 95%", "high-resource, 90%")
    return Section("Differences", columns, rows, text_column=columns[0])


def _teachers(plan: Plan, scores: Scores) -> Section:
    """What each teacher knows of its language, beside its students: a weak one is seen here."""
    rows = []
    for code in plan.budget.languages:
        teachers = [f"{teacher_nll(plan, code, data):.3f}" for data in ("train", "balanced")]
        students = [f"{nll_of(scores[name][code]).mean():.3f}" for name in (RIVAL, CLAIMED)]
        rows.append((code, *teachers, *students, f"{unigram_of(scores[RIVAL][code]):.3f}"))
    columns = (
        "language",
        "teacher",
        "teacher of balanced text",
        "student, all text",
        "student, balanced, teachers",
        "unigram",
    )
    return Section("What each teacher knows (NLL on its own language)", columns, rows)


def _before_and_after(plan: Plan) -> list[Section]:
    """The claimed student's validations: its teachers' figure on held-out lines, its own at the first one and at the last."""
    knowledge = student_knowledge(plan, CLAIMED)
    if knowledge is None:
        return []
    rows = [
        (name, *(f"{value:.3f}" for value in (known.teacher, known.before, known.after)))
        for name, known in knowledge.of.items()
    ]
    columns = (
        "language",
        "teacher",
        *(f"student, step {step}" for step in (knowledge.first_step, knowledge.last_step)),
    )
    return [Section("Teachers and the claimed student before and after (NLL on validation lines)", columns, rows)]


def _transfer(plan: Plan) -> list[Section]:
    """Accuracy of a head trained on English labels alone, where that was run: on the text as it is, and without what translations
    copy from English."""
    languages = plan.task_languages()
    titles = {student.name: student.title for student in STUDENTS}
    sections = []
    for setting, found in transfer_accuracy(plan).items():
        rows = [(titles[name], *(f"{own[code]:.3f}" for code in languages)) for name, own in found.items()]
        heading = f"Zero-shot transfer: accuracy on {TASK}, {SETTING_TITLES[setting].lower()}, head trained on English"
        sections.append(Section(heading, ("student", *languages), rows, text_column="student"))
    return sections


def _facts(plan: Plan) -> dict[str, str]:
    places = [plan.folder(step.name) / DONE for step in plan.steps]
    done = [json.loads(place.read_text(encoding="utf-8")) for place in places if place.is_file()]
    commits = Counter(step["commit"] or "unknown" for step in done)
    seconds = sum(step["seconds"] for step in done)
    return {
        "budget": json.dumps(asdict(plan.budget)),
        "seconds": f"{seconds:.0f} over {len(done)} of {len(places)} steps, {plan.budget.num_jobs} at a time",
        "machine": f"{plan.place.precision} on {plan.place.device}, {os.cpu_count()} cores, {platform.machine()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "deepspeed")),
        "commits": ", ".join(f"{name} ({number} steps)" for name, number in commits.most_common()),
        "date": time.strftime("%Y-%m-%d"),
    }


def _data(plan: Plan) -> dict:
    return json.loads((plan.folder("data") / "data.json").read_text(encoding="utf-8"))
