"""The report of a finished run: table, gates, primary test, variants, ladder, and one verdict line at the end."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import transformers
import yaml
from rich.console import Console

from benchmarks.quality.claim.backbone import BackbonePlan
from benchmarks.quality.claim.budgets import CPU, place_of
from benchmarks.quality.claim.collect import (
    TRANSLATE_TEST,
    Readings,
    Rung,
    collect,
    costs_of,
    gates_of,
    ladder_of,
    variants_of,
    was_asked,
)
from benchmarks.quality.claim.plan import Plan
from benchmarks.quality.claim.trainings import LEARNERS
from benchmarks.quality.claim.variants import PARALLEL, PLAIN, VARIANTS, Variant
from benchmarks.quality.claim.verdict import (
    LanguageGate,
    Rules,
    backbone_reason,
    best_system,
    counting_languages,
    decide,
    gates_section,
)
from benchmarks.steps import DONE
from mtllm_ds.evaluation.answers.predictions import Predictions
from mtllm_ds.evaluation.report.parts import Comparison, Report, Verdict
from mtllm_ds.evaluation.report.tables import Table, build_tables, compare, compare_each
from mtllm_ds.evaluation.report.writing import TITLES, write_report
from mtllm_ds.languages import ENGLISH

SYSTEM = "mtllm_stage2"
RIDGES = ("ridge", "ridge_centred")
NOTES = yaml.safe_load(Path(__file__).with_name("notes.yaml").read_text(encoding="utf-8"))
TITLE = "Does the stacked model beat translate-test with the same MT model?"


def write_quality_report(
    plan: Plan, backbone: str, ladder: Sequence[str], left: Sequence[str], folder: Path, console: Console
) -> Verdict:
    """Write `report.html`, `summary.json`, tables and pictures of one backbone into `folder`, variants into `folder/variants`.

    Args:
        ladder: earlier checkpoints of the MT model
        left: optional steps that were not run
    """
    rules = Rules(level=plan.budget.level)
    gates = gates_of(
        plan, json.loads((plan.folder("data") / "data.json").read_text(encoding="utf-8"))["counts_by_language"]
    )
    counting = counting_languages(gates, rules)
    predictions, readings = collect(plan, backbone, counting)
    tables = tuple(build_tables(predictions))
    verdict, comparisons = _judge(predictions, tables, gates, counting, rules, len(plan.budget.seeds))
    notes = [*notes_of(plan, readings), *variant_notes(plan, backbone, folder)]
    learners = [learner.name for learner in LEARNERS if was_asked(plan, backbone, learner.answers)]
    if (plan.folder(backbone) / "choice").is_dir():
        notes += _ladder(plan, backbone, ladder, left)
    if left:
        notes.append(f"Not run yet: {', '.join(left)}.")
    report = Report(
        title=f"{TITLE} Backbone: {backbone}",
        tables=tables,
        comparisons=comparisons,
        costs=costs_of(plan, backbone),
        sections=(gates_section(gates, rules),),
        verdict=verdict,
        facts=facts_of(BackbonePlan(plan, backbone), learners),
        notes=tuple(notes),
    )
    write_report(report, folder, console)
    return verdict


def _judge(
    predictions: Predictions,
    tables: Sequence[Table],
    gates: dict[str, LanguageGate],
    counting: list[str],
    rules: Rules,
    num_seeds: int,
) -> tuple[Verdict, tuple[Comparison, ...]]:
    """The primary test and the plain one against the best translate-test of each setting, and the verdict."""
    plain, masked = (next(table for table in tables if table.setting == name) for name in ("plain", "copy_masked"))
    english = plain.cells[ENGLISH]
    failure = backbone_reason(english["llm_direct"].accuracy, english["tfidf"].accuracy, rules)
    if num_seeds < len(CPU.seeds):
        failure = f"{num_seeds} seed{'s' * (num_seeds > 1)} of the {len(CPU.seeds)} that the protocol asks for"
    shown = counting or list(plain.mean_languages)  # nothing is claimed of languages that do not count
    rivals = {table.setting: best_system(table, list(TRANSLATE_TEST), shown) for table in (plain, masked)}
    found = {}
    for table in (masked, plain):
        rival = rivals[table.setting]
        overall = compare(predictions, SYSTEM, rival, table.setting, shown)
        each = compare_each(predictions, SYSTEM, rival, table.setting, shown)
        found[table.setting] = Comparison(SYSTEM, rival, table.setting, overall, each)
    rival = best_system(masked, RIDGES, shown)
    ridge = compare(predictions, SYSTEM, rival, "copy_masked", shown)
    each = compare_each(predictions, SYSTEM, rival, "copy_masked", shown)
    verdict = decide(
        found["copy_masked"].overall if counting else None,
        found["plain"].overall if counting else None,
        gates=gates,
        backbone_failure=failure,
        rival=TITLES[rivals["copy_masked"]],
        gap_closed=masked.gap_closed(SYSTEM, shown),
        rules=rules,
    )
    return verdict, (*found.values(), Comparison(SYSTEM, rival, "copy_masked", ridge, each))


def facts_of(steps: BackbonePlan, learners: Sequence[str]) -> dict[str, str]:
    """What was run, with what, for how long; `learners`: names of those that answered."""
    plan, budget = steps.plan, steps.plan.budget
    method = VARIANTS[steps.headline]
    rates = {name: f"{steps.rate(name):g}" for name in ("stage1", *learners)}
    data = json.loads((plan.folder("data") / "data.json").read_text(encoding="utf-8"))
    done = [json.loads(path.read_text(encoding="utf-8")) for path in plan.root.rglob(DONE)]
    commits = Counter(step.get("commit") or "not noted" for step in done)
    tried = ", ".join(f"{rate:g}" for rate in budget.learning_rates)
    pilots = f"{budget.stage1_pilot_steps} (stage 1) and {budget.task_pilot_steps}"
    items, leaking = (data["counts"][name] for name in ("train items", "train items that leak"))
    return {
        "budget": budget.name,
        "method": f"{steps.headline}: {method.what}",
        "seeds": ", ".join(map(str, budget.seeds)),
        "steps": f"stage 1 {round(budget.stage1_steps * method.stage1_share)}, every tuning {budget.task_steps}",
        "tokens a step": f"at most {budget.lanes * budget.tokens_per_cell}, samples of at most {budget.max_length}",
        "learning rates": f"{tried}; chosen on English validation by runs of {pilots} steps",
        "chosen": ", ".join(f"{name} {rate}" for name, rate in rates.items()),
        "training items": f"{min(items, budget.train_items or items)}; {leaking} left out by the leak test",
        "test items": f"at most {budget.test_items} a language, drawn" if budget.test_items else "all",
        "translate-train": f"{budget.translated_items or 'all'} of them in each language",
        "stage-1 texts": _stage1_texts(method, data["counts"]),
        "MT model, backbone": f"{plan.mt} and {steps.llm}: fixed, the seeds do not vary them",
        "development languages": ", ".join(plan.development),
        "files": _frozen(plan, data["changed_files"]),
        "seconds": f"{sum(step['seconds'] for step in done):.0f} over all steps, {budget.num_jobs} at a time",
        "machine": f"{plan.precision} on {plan.device}, {os.cpu_count()} cores, {platform.machine()}",
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}, DeepSpeed {version('deepspeed')}",
        "commits": ", ".join(f"{name} ({number} steps)" for name, number in commits.most_common()),
    }


def _stage1_texts(method: Variant, counts: dict[str, int]) -> str:
    if method.stage1_shards != PARALLEL:
        return str(counts["stage1_train"])
    english = counts[f"parallel_{ENGLISH}"]
    translations = sum(n for name, n in counts.items() if name.startswith("parallel_")) - english
    return f"{english} in English, {translations} translations"


def _frozen(plan: Plan, changed: Sequence[str]) -> str:
    if changed:
        return f"not the frozen ones: {', '.join(changed)}"
    return "as frozen"


def notes_of(plan: Plan, readings: Sequence[Readings]) -> list[str]:
    """What a reader must know of the run."""
    notes = []
    if plan.budget.is_smoke:
        notes.append(
            "A smoke run: a handful of items and steps. It shows that the mechanics work; its figures mean nothing."
        )
    for reading in readings:
        figures = ", ".join(
            f"{name.replace('_', ' ')} translation {value:.3f}" for name, value in reading.accuracy.items()
        )
        where = "copy-masked, mean over the languages that count"
        notes.append(f"{TITLES[reading.system]}, {where}: {figures}; the table has the better one.")
    place = place_of(plan.budget.name.removesuffix("-smoke"), plan.task_name)
    return [*notes, *NOTES.get(place, NOTES[plan.task_name])]


def variant_notes(plan: Plan, backbone: str, folder: Path) -> list[str]:
    """A report of its own on the development languages, and a line a variant here."""
    predictions = variants_of(plan, backbone)
    if predictions is None:
        return []
    tables = tuple(build_tables(predictions.of_languages([ENGLISH, *plan.development])))
    write_report(
        Report(
            title=f"Variants on development languages, seed 0. Backbone: {backbone}",
            tables=tables,
            comparisons=against_bases(predictions, plan.development),
            notes=(
                "Each variant minus the one that it changes in one thing; the interval covers source texts, not seeds.",
            ),
        ),
        folder / "variants",
    )
    lines = []
    for table in reversed(tables):
        for system in sorted(table.systems, key=lambda name: -np.nan_to_num(table.mean(name))):
            what = VARIANTS[system.removeprefix("variant_")].what if system.startswith("variant_") else TITLES[system]
            lines.append(f"{table.setting.replace('_', '-')} {table.mean(system):.3f}: {system}, {what}")
    return ["Every variant that was tried, seed 0, mean accuracy over the development languages only:", *lines]


def against_bases(predictions: Predictions, languages: Sequence[str]) -> tuple[Comparison, ...]:
    """What each variant that answered brought over its base, where that answered too."""
    answered = {name.removeprefix("variant_") for name in np.unique(predictions.system) if name.startswith("variant_")}
    pairs = [(name, VARIANTS[name].base) for name in VARIANTS if name in answered and name != PLAIN]
    return tuple(
        Comparison(*systems, setting, compare(predictions, *systems, setting, languages))
        for systems in ((f"variant_{name}", f"variant_{base}") for name, base in pairs if base in answered)
        for setting in ("copy_masked", "plain")
    )


def _ladder(plan: Plan, backbone: str, ladder: Sequence[str], left: Sequence[str]) -> list[str]:
    done = {number: mt for number, mt in enumerate(ladder) if f"{backbone}/ladder/{number}" not in left}
    rungs = ladder_of(plan, backbone, done)
    if len(rungs) == 1:
        return [] if ladder else ["MT ladder: no earlier checkpoints of the MT model were given (MT_LADDER)."]
    return ["MT ladder (development languages, copy-masked, seed 0, greedy translate-test):", *map(_rung_line, rungs)]


def _rung_line(rung: Rung) -> str:
    gain = 100 * (rung.stack - rung.translate_test)
    return (
        f"{rung.name}: chrF {rung.chrf:.1f}, retrieval {rung.retrieval:.2f}; stack {rung.stack:.3f}, translate-test "
        f"{rung.translate_test:.3f}, gain {gain:+.1f} points"
    )
