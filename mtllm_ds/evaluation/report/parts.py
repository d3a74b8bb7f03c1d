"""What a report is made of; `writing.py`, `html.py` and `pictures.py` show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mtllm_ds.evaluation.report.statistics import Difference
from mtllm_ds.evaluation.report.tables import Table


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
class Verdict:
    """What a report comes to: a word or two, such as `not confirmed`, and the line that says why."""

    status: str
    line: str


@dataclass(frozen=True)
class Section:
    """A table of the report's author beside those of accuracies."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_column: str = ""
    """of `columns`: it holds words, set to the left"""


@dataclass(frozen=True)
class Picture:
    """A picture of a report."""

    png: bytes
    heading: str
    caption: str


@dataclass(frozen=True)
class Report:
    """All that a report shows; only `tables` is needed."""

    title: str
    tables: tuple[Table, ...]
    comparisons: tuple[Comparison, ...] = ()
    costs: Mapping[str, Cost] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()
    verdict: Verdict | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    """settings, versions, seconds: shown as a list"""
    notes: tuple[str, ...] = ()
    """paragraphs such as the list of variants that were tried"""
