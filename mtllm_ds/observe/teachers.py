"""What each teacher knows of its language beside its student, before and after: so a weak teacher is seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table

from mtllm_ds.observe.sinks import Row

ALL = "all"
_TEACHER = "eval_teacher_nll"


@dataclass(frozen=True)
class Known:
    """Nats per token of held-out text, of the tokens that both have."""

    teacher: float
    before: float
    """The student's at the first validation"""
    after: float
    """At the last"""


@dataclass(frozen=True)
class Knowledge:
    """What the validations of a run say of its teachers."""

    first_step: int
    last_step: int
    of: dict[str, Known]
    """By language, and `all`"""


def knowledge_of(rows: Iterable[Row]) -> Knowledge | None:
    """From the rows of `metrics.jsonl`; None where no teacher was measured."""
    measured = [row for row in rows if _is_measured(row, "")]
    if not measured:
        return None
    first, last = measured[0], measured[-1]
    places = [name.removeprefix(_TEACHER) for name in last if name.split("/")[0] == _TEACHER]
    places = [place for place in places if _is_measured(first, place) and _is_measured(last, place)]
    return Knowledge(
        first["step"],
        last["step"],
        {
            place.removeprefix("/") or ALL: Known(last[_TEACHER + place], _student(first, place), _student(last, place))
            for place in places
        },
    )


def knowledge_table(knowledge: Knowledge) -> Table:
    """A row a language, all together last."""
    table = Table(title="What each teacher knows: nats per token of held-out text", title_justify="left")
    table.add_column("language", no_wrap=True)
    for heading in ("teacher", *(f"student, step {step}" for step in (knowledge.first_step, knowledge.last_step))):
        table.add_column(heading, justify="right")
    for name, known in sorted(knowledge.of.items(), key=lambda item: item[0] == ALL):
        table.add_row(name, *(f"{value:.3f}" for value in (known.teacher, known.before, known.after)))
    return table


def _is_measured(row: Row, place: str) -> bool:
    """Whether both sides are: a log may hold rows of an earlier version."""
    return _TEACHER + place in row and (f"eval_shared_nll{place}" in row or f"eval_nll{place}" in row)


def _student(row: Row, place: str) -> float:
    """Over the tokens that the teacher has too, where it lacks some."""
    shared = f"eval_shared_nll{place}"
    return float(row[shared if shared in row else f"eval_nll{place}"])
