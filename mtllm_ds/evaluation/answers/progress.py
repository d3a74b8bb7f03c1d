"""What a person sees while a model is evaluated: a progress bar, or in a log a line a finished file."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mtllm_ds.evaluation.answers.survey import Unit


class EvaluationDisplay:
    """Shows nothing if `quiet`, as on every rank but one."""

    def __init__(self, units: Sequence[Unit], quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("items"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=self._console, disable=quiet or not self._console.is_terminal)
        self._task = self._progress.add_task("", total=sum(unit.num_items for unit in units))
        self._before = 0
        self._within = 0
        self._unit: Unit | None = None

    def __enter__(self) -> EvaluationDisplay:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def begin(self, unit: Unit) -> None:
        """The next unit; the one before is whole."""
        self._before += self._unit.num_items if self._unit else 0
        self._unit, self._within = unit, 0
        self._progress.update(self._task, completed=self._before, description=f"{unit.language} {unit.setting}")

    def advance(self, num_items: int) -> None:
        assert self._unit is not None
        self._within = min(self._within + num_items, self._unit.num_items)
        self._progress.update(self._task, completed=self._before + self._within)

    def finish(self, unit: Unit, accuracy: float, seconds: float) -> None:
        """A unit's file is written; `seconds` are those of all ranks together."""
        self.advance(unit.num_items)
        self.say(f"{unit.language} {unit.setting}: accuracy {accuracy:.3f} on {unit.num_items} items, {seconds:.1f} s")
