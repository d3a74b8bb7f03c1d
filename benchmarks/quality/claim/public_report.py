"""The report of a run on public models: tables, the encoder's gates, the stack against each rival, and one verdict line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.quality.claim.budgets import CPU
from benchmarks.quality.claim.collect import FILE, Readings, better_reading, seconds_of, was_asked
from benchmarks.quality.claim.public_plan import (
    ENCODER,
    TRANSLATE_TEST,
    PublicBackbone,
    PublicPlan,
    public_learners,
    translate_test_step,
)
from benchmarks.quality.claim.public_verdict import (
    GATED,
    TARGET_GAP_CLOSED,
    Standing,
    judge,
    means_section,
    standings_section,
    unknown_note,
)
from benchmarks.quality.claim.report import RIDGES, SYSTEM, facts_of, notes_of, variant_notes
from benchmarks.quality.claim.trainings import TEACHER
from benchmarks.quality.claim.verdict import (
    LanguageGate,
    Rules,
    backbone_reason,
    best_system,
    counting_languages,
    gates_section,
)
from benchmarks.steps import DONE
from mtllm_ds.evaluation.answers.predictions import Predictions, concatenate, read_predictions
from mtllm_ds.evaluation.items.translated import READINGS
from mtllm_ds.evaluation.report.parts import Comparison, Cost, Report, Verdict
from mtllm_ds.evaluation.report.tables import Table, build_tables, compare, compare_each
from mtllm_ds.evaluation.report.writing import TITLES, write_report
from mtllm_ds.languages import ENGLISH

TITLE = "Does a stack on public models beat its own encoder, tuned on the task with a head?"
WITH_HEAD = "the encoder + LoRA + head tuned on English"


def write_public_report(backbone: PublicBackbone, left: Sequence[str], folder: Path, console: Console) -> Verdict:
    """Write `report.html`, `summary.json`, tables and pictures into `folder`, variants into `folder/variants`.

    Args:
        left: optional steps that were not run
    """
    plan = backbone.plan
    rules = Rules(level=plan.budget.level, target_gap_closed=TARGET_GAP_CLOSED)
    gates = encoder_gates(plan)
    counting = counting_languages(gates, rules)
    predictions, readings, translated = collect_public(backbone, counting)
    tables = tuple(build_tables(predictions))
    shown = counting or list(tables[0].mean_languages)  # nothing is claimed of languages that do not count
    comparisons, standings = compare_all(predictions, tables, shown, translated)
    verdict = judge(
        standings[0], standings[1:], gates=gates, backbone_failure=failure_of(tables[0], len(plan.budget.seeds), rules),
        gap_closed=_table(tables, "copy_masked").gap_closed(SYSTEM, shown), rules=rules,
    )  # fmt: skip
    learners = [learner for learner in public_learners(plan) if was_asked(plan, backbone.name, learner.answers)]
    unknown = unknown_note(gates, rules)
    notes = [*([unknown] if unknown else []), *notes_of(plan, readings), *variant_notes(plan, backbone.name, folder)]
    if left:
        notes.append(f"Not run yet, or not to be had: {', '.join(left)}.")
    report = Report(
        title=f"{TITLE} Backbone: {backbone.name}",
        tables=tables,
        comparisons=comparisons,
        costs=_costs(backbone, [learner.answers for learner in learners], translated),
        sections=(
            standings_section(standings, rules),
            means_section(tables, shown, TITLES, counting),
            gates_section(gates, rules, GATED),
        ),
        verdict=verdict,
        facts=facts_of(backbone, [learner.name for learner in learners]),
        notes=tuple(notes),
    )
    write_report(report, folder, console)
    return verdict


def encoder_gates(plan: PublicPlan) -> dict[str, LanguageGate]:
    """Gates of the encoder by language."""
    measured = json.loads((plan.folder("gates") / "gates.json").read_text(encoding="utf-8"))
    counts = json.loads((plan.folder("data") / "data.json").read_text(encoding="utf-8"))["counts_by_language"]
    return {
        code: LanguageGate(
            None, row["retrieval"], counts[code], development=code in plan.development, num_pairs=row["n"]
        )
        for code, row in measured.items()
    }


def failure_of(plain: Table, num_seeds: int, rules: Rules) -> str | None:
    """Why nothing can be claimed of the backbone or of so few seeds, or None."""
    if num_seeds < len(CPU.seeds):
        return f"{num_seeds} seed{'s' * (num_seeds > 1)} of the {len(CPU.seeds)} that the protocol asks for"
    english = plain.cells[ENGLISH]
    return backbone_reason(english[TEACHER.answers].accuracy, english["tfidf"].accuracy, rules)


def collect_public(
    backbone: PublicBackbone, counting: Sequence[str]
) -> tuple[Predictions, list[Readings], tuple[str, ...]]:
    """All predictions, how translate-test was masked, and the languages that it answered with every seed."""
    plan, seeds, folder = backbone.plan, backbone.budget.seeds, backbone.folder("eval")
    parts = [read_predictions([plan.folder(f"baseline/{system}") / FILE]) for system in ("majority", "tfidf")]
    names = [(learner.answers, learner.answers) for learner in public_learners(plan)]
    names += [(TEACHER.answers, "english_originals"), ("ridge", "ridge")]
    for step, system in names:
        if was_asked(plan, backbone.name, step):
            parts += [read_predictions([folder / f"{step}-{seed}" / system / FILE]) for seed in seeds]
    controls = [folder / f"{control}-0" / control / FILE for control in backbone.controls]
    parts += [read_predictions([path]) for path in controls if (path.parents[1] / DONE).exists()]
    translated = tuple(code for code in plan.translated_from if _was_translated(backbone, code))
    if not translated:
        return concatenate(parts), [], ()
    answers: Mapping[str, Predictions] = {
        reading: concatenate(
            read_predictions([backbone.folder(translate_test_step(code, seed)) / reading / TRANSLATE_TEST / FILE])
            for code in translated
            for seed in seeds
        )
        for reading in READINGS
    }
    found, readings = better_reading(
        answers, TRANSLATE_TEST, [code for code in translated if code in counting] or translated
    )
    return concatenate([*parts, found]), [readings], translated


def _was_translated(backbone: PublicBackbone, code: str) -> bool:
    steps = [translate_test_step(code, seed) for seed in backbone.budget.seeds]
    return all((backbone.folder(step) / DONE).exists() for step in steps)


def compare_all(
    predictions: Predictions, tables: Sequence[Table], shown: Sequence[str], translated: Sequence[str]
) -> tuple[tuple[Comparison, ...], tuple[Standing, ...]]:
    """Stage 2 against the encoder with a head, the better ridge of each setting, and translate-test where it answered."""
    comparisons: list[Comparison] = []
    standings = []
    for rival, candidates, languages in (
        (WITH_HEAD, [ENCODER.answers], list(shown)),
        ("the better ridge", list(RIDGES), list(shown)),
        ("translate-test by Apertium", [TRANSLATE_TEST], [code for code in shown if code in translated]),
    ):
        found = {
            setting: _comparison(
                predictions, best_system(_table(tables, setting), candidates, languages), setting, languages
            )
            for setting in ("copy_masked", "plain")
            if languages
        }
        comparisons += found.values()
        masked, plain = (found[setting].overall if languages else None for setting in ("copy_masked", "plain"))
        standings.append(Standing(rival, masked, plain, tuple(languages)))
    return tuple(comparisons), tuple(standings)


def _comparison(predictions: Predictions, rival: str, setting: str, languages: Sequence[str]) -> Comparison:
    overall = compare(predictions, SYSTEM, rival, setting, languages)
    return Comparison(SYSTEM, rival, setting, overall, compare_each(predictions, SYSTEM, rival, setting, languages))


def _table(tables: Sequence[Table], setting: str) -> Table:
    return next(table for table in tables if table.setting == setting)


def _costs(backbone: PublicBackbone, answers: Sequence[str], translated: Sequence[str]) -> dict[str, Cost]:
    """Seconds an item of seed 0; translate-test's with its translation, mean over its languages."""
    folder = backbone.folder("eval")
    costs = {system: Cost(seconds_of(folder / f"{system}-0" / system, system)) for system in answers}
    costs["ridge"] = Cost(seconds_of(folder / "ridge-0" / "ridge", "ridge"))
    if translated:
        each = [_seconds_translated(backbone, code) for code in translated]
        costs[TRANSLATE_TEST] = Cost(sum(each) / len(each))
    return costs


def _seconds_translated(backbone: PublicBackbone, code: str) -> float:
    read = seconds_of(backbone.folder(translate_test_step(code, 0)) / "plain" / TRANSLATE_TEST, TRANSLATE_TEST)
    folder = backbone.plan.folder(f"translate/test/{code}")
    written = json.loads((folder / "translation.json").read_text(encoding="utf-8"))
    # Two of three readings were translated.
    return read + written["seconds"] / written["num_items"] * len(READINGS) / 2
