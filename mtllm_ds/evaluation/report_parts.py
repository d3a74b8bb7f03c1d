"""What a report is made of; `report.py`, `html.py` and `pictures.py` show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mtllm_ds.evaluation.statistics import Difference
from mtllm_ds.evaluation.tables import Table
from mtllm_ds.evaluation.verdict import LanguageGate, Rules, Verdict


@dataclass(frozen=True)
class Comparison:
    """`first` minus `second` in one setting: over all its languages jointly, and a language with Holm's p-value."""

    first: str
    second: str
    setting: str
    overall: Difference
    languages: Mapping[str, tuple[Difference, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """What a system costs."""

    seconds_per_item: float
    chrf: float | None = None
    """of the translations it reads, where it reads any"""


@dataclass(frozen=True)
class Report:
    """All that a report shows; only `tables` is needed."""

    title: str
    tables: tuple[Table, ...]
    comparisons: tuple[Comparison, ...] = ()
    costs: Mapping[str, Cost] = field(default_factory=dict)
    gates: Mapping[str, LanguageGate] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    verdict: Verdict | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    """settings, versions, seconds: shown as a list"""
    notes: tuple[str, ...] = ()
    """paragraphs such as the list of variants that were tried"""
