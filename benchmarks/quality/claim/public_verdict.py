"""The verdict of a run on public models: the stack against the encoder with a head first, then against ridge and translate-test.

Pure functions of measured figures; the first comparison alone is the claim, with the rules of every other run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.quality.claim.verdict import LanguageGate, Rules, decide
from mtllm_ds.evaluation.report.parts import Section, Verdict
from mtllm_ds.evaluation.report.statistics import Difference
from mtllm_ds.evaluation.report.tables import CEILING, FLOOR, Table

GATED = "encoder"
TARGET_GAP_CLOSED = 0.8
"""Share of the copy-masked gap that is aimed at with real models"""


@dataclass(frozen=True)
class Standing:
    """The stack minus one rival over some languages: positive where the stack is better. None: the rival has not answered."""

    rival: str
    """for people"""
    masked: Difference | None
    plain: Difference | None
    languages: tuple[str, ...]


def standing_word(difference: Difference, level: float) -> str:
    """ahead, behind, or undecided where chance explains the difference."""
    if difference.p >= level or not difference.mean:
        return "undecided"
    return "ahead" if difference.mean > 0 else "behind"


def judge(
    primary: Standing,
    others: Sequence[Standing],
    *,
    gates: Mapping[str, LanguageGate],
    backbone_failure: str | None,
    gap_closed: float,
    rules: Rules,
) -> Verdict:
    """The primary comparison decides; a clause for each other one follows, unless a gate failed."""
    verdict = decide(
        primary.masked, primary.plain, gates=gates, backbone_failure=backbone_failure, rival=primary.rival,
        gap_closed=gap_closed, rules=rules, gated=GATED,
    )  # fmt: skip
    if verdict.status == "gate failed":
        return verdict
    return Verdict(verdict.status, "; ".join([verdict.line, *(clause(standing, rules) for standing in others)]))


def clause(standing: Standing, rules: Rules) -> str:
    """One comparison in words, on copy-masked text."""
    found = standing.masked
    if found is None:
        return f"against {standing.rival}: not run"
    return (
        f"against {standing.rival}: {standing_word(found, rules.level)}, {100 * found.mean:+.1f} points, 95% "
        f"{100 * found.low:+.1f} to {100 * found.high:+.1f}, p = {found.p:.4f}, over {len(standing.languages)} languages"
    )


def standings_section(standings: Sequence[Standing], rules: Rules) -> Section:
    """Every comparison as a table of the report."""
    rows = []
    for standing in standings:
        for setting, found in (("copy-masked", standing.masked), ("plain", standing.plain)):
            if found is None:
                rows.append((standing.rival, setting, "-", "-", "-", "0", "0", "not run"))
                continue
            interval = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
            figures = (f"{100 * found.mean:+.1f}", interval, f"{found.p:.4f}", str(len(standing.languages)))
            rows.append((standing.rival, setting, *figures, str(found.num_items), standing_word(found, rules.level)))
    columns = ("stage 2 minus", "text", "points", "95%", "p", "languages", "items", "the stack is")
    return Section("Against each rival", columns, rows, text_column="the stack is")


def means_section(
    tables: Sequence[Table], languages: Sequence[str], titles: Mapping[str, str], counting: Sequence[str]
) -> Section:
    """Means over the languages that count, or over all where none does, and the share of the gap that each system closes there."""
    plain, masked = (next(table for table in tables if table.setting == name) for name in ("plain", "copy_masked"))
    rows = []
    for system in plain.systems:
        means = [table.accuracies(system, languages) for table in (plain, masked)]
        if all(means):
            closed = masked.gap_closed(system, languages)
            share = "-" if system in (FLOOR, CEILING) or closed != closed else f"{closed:.0%}"
            shown = [f"{sum(values) / len(values):.3f}" for values in means if values]
            rows.append((titles.get(system, system), *shown, share))
    which = f"the {len(counting)} languages that count" if counting else "all languages (none counts)"
    heading = f"Means over {which}: {', '.join(languages)}"
    return Section(heading, ("system", "plain", "copy-masked", "copy-masked gap closed"), rows)


def unknown_note(gates: Mapping[str, LanguageGate], rules: Rules) -> str | None:
    """Says which languages the encoder does not know; they stay in the tables, and in the means of those."""
    unknown = [
        f"{code} ({gate.retrieval:.2f})" for code, gate in gates.items() if not gate.retrieval >= rules.min_retrieval
    ]
    if not unknown:
        return None
    return (
        f"Not known to the encoder: {', '.join(unknown)}. It finds fewer than {rules.min_retrieval:.0%} of their English originals "
        "among validation pairs, copied names left out, and nothing stacked on it can read them. They stand in the tables and in "
        "their means, and in no verdict."
    )
