"""Every column of a batch, once: what it is called, what it holds, what fills it up, and who writes it.

Shards and target sets hold columns by name. Whoever adds one describes it here (or by `register`, from a module of its own): the
reader of batches takes type and padding from this description, and refuses a column that nobody has described.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from mtllm_ds.errors import UserError

Per = Literal["row", "token", "choice", "pair", "row or choice"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column. A batch holds those per row as (B, ...), others, whose rows differ in length, padded to (B, S, ...)."""

    name: str
    per: Per
    dtype: Literal["int64", "float32", "bool"]
    """Of the batch's tensor; on disk integers take the narrowest type."""
    fill: float | bool | None
    """Where a row is shorter than the batch's longest; None: the padding token of its side."""
    writer: str
    """The command that writes it."""
    on_host: bool = False
    """The host keeps it too, where a forward depends on it (`HostFacts.columns`): values per row, else the rows' lengths."""
    for_people: bool = False
    """Only `mtllm-ds prepare show` reads it: no batch brings it, and every objective takes shards with it and without."""


ENCODER_IDS, LLM_IDS, LABEL, TOKEN_PAIRS = "encoder_ids", "llm_ids", "label", "token_pairs"
CHOICE_SPANS = {"encoder": "encoder_choice_spans", "llm": "llm_choice_spans"}
"""By side: [start, end) of each choice's tokens; an empty span fills up"""
TEACHER_POOLED = "teacher_pooled"
TEACHER_TOP_IDS, TEACHER_TOP_LOG_PROBS = "teacher_top_ids", "teacher_top_log_probs"
TEACHER_LOG_TAIL_MASS = "teacher_log_tail_mass"
RESPONSE_START, STUDENT_PROMPT_IDS, SAMPLE_WEIGHT = "response_start", "student_prompt_ids", "sample_weight"
"""Of dialogues: where the response begins in `llm_ids`, before which stands what the teacher reads; what the student reads there;
and how much the sample counts"""

RECORD = "record"
"""Where a sample comes from: UTF-8 bytes of a JSON object"""

ALWAYS_READ = (ENCODER_IDS, LLM_IDS)
"""What every data set holds, and what every batch is made of."""

_SHARDS, _TASK, _TARGETS = "mtllm-ds prepare shards", "mtllm-ds prepare task", "mtllm-ds prepare teacher-targets"
_DIALOGUES = "mtllm-ds prepare dialogues"
_COLUMNS = {
    column.name: column
    for column in (
        Column(name=ENCODER_IDS, per="token", dtype="int64", fill=None, writer=_SHARDS),
        Column(name=LLM_IDS, per="token", dtype="int64", fill=None, writer=_SHARDS),
        Column(name=LABEL, per="row", dtype="int64", fill=-100, writer=f"{_TASK}, or {_SHARDS} --label-field"),
        Column(name=TOKEN_PAIRS, per="pair", dtype="int64", fill=-1, writer=f"{_SHARDS} --token-pairs"),
        *(Column(name=name, per="choice", dtype="int64", fill=0, writer=_TASK) for name in CHOICE_SPANS.values()),
        Column(name=TEACHER_POOLED, per="row or choice", dtype="float32", fill=0.0, writer=_TARGETS),
        Column(name=TEACHER_TOP_IDS, per="token", dtype="int64", fill=0, writer=_TARGETS),
        Column(name=TEACHER_TOP_LOG_PROBS, per="token", dtype="float32", fill=0.0, writer=_TARGETS),
        Column(name=RESPONSE_START, per="row", dtype="int64", fill=0, writer=_DIALOGUES, on_host=True),
        Column(
            name=STUDENT_PROMPT_IDS,
            per="token",
            dtype="int64",
            fill=0,
            writer=f"{_DIALOGUES} --student-prompt",
            on_host=True,
        ),
        Column(
            name=SAMPLE_WEIGHT, per="row", dtype="float32", fill=1.0, writer=f"{_DIALOGUES} of records with weights"
        ),
        Column(name=RECORD, per="token", dtype="int64", fill=0, writer=f"{_DIALOGUES} --keep-records", for_people=True),
        Column(name=TEACHER_LOG_TAIL_MASS, per="token", dtype="float32", fill=0.0, writer=_TARGETS),
    )
}


def register(column: Column) -> None:
    """Make a further column known to all readers of batches; describing it twice in the same words changes nothing."""
    known = _COLUMNS.setdefault(column.name, column)
    assert known == column, f"the column {column.name} is described twice, differently"


def column_named(name: str, where: str = "the data set") -> Column:
    """The description of a column.

    Raises:
        UserError: nobody has described it; `where` says whose it is.
    """
    if name not in _COLUMNS:
        old = "; it was made by an older version, whose column is called 'label' now" if name == "labels" else ""
        raise UserError(
            f"{where}: holds a column '{name}' that this code does not know{old}; prepare it anew, or describe the column by "
            "mtllm_ds.data.columns.register"
        )
    return _COLUMNS[name]


def check_columns(
    written: Collection[str],
    read: Collection[str],
    *,
    where: str,
    reader: str,
    may_read: Collection[str] = (),
    left_aside: Collection[str] = (),
) -> None:
    """Do the columns of a data set (its targets' included) and what is read of them fit together?

    Args:
        written: columns that are there
        read: columns that must be there
        where: the data set, as a message names it, such as `data.train=FOLDER`
        reader: who reads, such as `objective.name=task_tuning`
        may_read: columns that are read where they are there
        left_aside: columns that the user has said nobody shall read

    Raises:
        UserError: a column is missing, unknown, or written and never read.
    """
    written = [name for name in written if not column_named(name, where).for_people]
    for name in sorted(set(read) - set(written)):
        raise UserError(f"{where}: has no column '{name}', which {reader} reads; add it by {column_named(name).writer}")
    if unread := sorted(set(written) - {*read, *may_read, *left_aside, *ALWAYS_READ}):
        names = ", ".join(f"'{name}'" for name in unread)
        raise UserError(
            f"{where}: holds {names}, which {reader} never reads; prepare the data without, choose an objective that reads "
            "it, or leave it aside on purpose"
        )
