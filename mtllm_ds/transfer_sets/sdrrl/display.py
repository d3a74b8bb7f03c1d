"""What a person sees of the pipeline: progress, counts, and a dialogue with its history."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mtllm_ds.data.shards.dialogue_view import record_lines
from mtllm_ds.errors import UserError
from mtllm_ds.transfer_sets.sdrrl.stages import Progress as Report
from mtllm_ds.transfer_sets.sdrrl.stages import read_rows

_LOG_SECONDS = 60
"""Between lines where there is no terminal for bars."""


class SdrrlDisplay:
    """A bar per stage over this rank's texts; in a log, a line a minute. Shows nothing if `quiet`."""

    def __init__(self, quiet: bool) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, disable=quiet or not console.is_terminal)
        self._logs = not quiet and not console.is_terminal
        self._logged = time.monotonic()

    def __enter__(self) -> SdrrlDisplay:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def stage(self, name: str) -> Report:
        """Where a stage reports."""
        task = self._progress.add_task(name, total=None)

        def report(done: int, total: int) -> None:
            self._progress.update(task, completed=done, total=total)
            if self._logs and time.monotonic() - self._logged > _LOG_SECONDS:
                self._logged = time.monotonic()
                print(f"{name}: {done} of {total} texts of this rank", file=sys.stderr, flush=True)

        return report


def print_report(report: Mapping[str, Mapping[str, int]]) -> None:
    """A row per stage and count."""
    table = Table("stage", "what", "count")
    table.columns[2].justify = "right"
    for stage, counts in report.items():
        for number, (what, count) in enumerate(sorted(counts.items(), key=lambda item: -item[1])):
            table.add_row("" if number else stage, what, f"{count:,}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def print_dialogues(folder: Path, first: int, count: int) -> None:
    """Dialogues of a folder of the pipeline, each with what it was made of.

    Raises:
        UserError: there is none of that number.
    """
    records = read_rows(folder / "dialogues.jsonl")
    if first >= len(records):
        raise UserError(f"--block={first}: there is none such; '{folder}' holds dialogues 0 to {len(records) - 1}")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for record in records[first : first + count]:
        console.print(f"\n{record['id']}")
        for name in ("language", "prompt", "teacher_prompt", "response"):
            if name in record:
                console.print(f"  {name}: {record[name]!r}")
        for line in record_lines({"history": record["history"]}):
            console.print(f"  {line}")


def is_folder_of_dialogues(folder: str) -> bool:
    """Whether the pipeline has written a folder."""
    return (Path(folder) / "dialogues.jsonl").is_file() and (Path(folder) / "dialogues.json").is_file()
