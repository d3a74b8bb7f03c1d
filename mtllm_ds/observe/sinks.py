"""Where the figures of a run go: `metrics.jsonl`, TensorBoard, the terminal. Only rank 0 has sinks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mtllm_ds import atomic

Row = dict[str, Any]


class Sink(Protocol):
    """Takes a row a logged step."""

    def write(self, row: Row) -> None: ...

    def rewind(self, step: int) -> None:
        """The run has gone back to `step`: rows of steps behind it come again."""

    def close(self) -> None: ...


class JsonlSink:
    """`metrics.jsonl`: one JSON object a row; on resume and on going back, rows of steps that will run again are dropped first."""

    def __init__(self, path: Path, start_step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        if path.exists():
            # A run that begins anew, killed before its first checkpoint, writes the row of step 0 again too.
            self._keep(lambda row: start_step > 0 and _lies_before(row, start_step))
        self._stream = path.open("a", encoding="utf-8")

    def write(self, row: Row) -> None:
        self._stream.write(json.dumps(row) + "\n")
        self._stream.flush()

    def rewind(self, step: int) -> None:
        self._keep(lambda row: _lies_before(row, step) or "loss_spike" in row)
        before, self._stream = self._stream, self._path.open("a", encoding="utf-8")
        before.close()

    def close(self) -> None:
        self._stream.close()

    def _keep(self, which: Callable[[Row], bool]) -> None:
        kept = [row for row in read_rows(self._path) if which(row)]
        atomic.write_text(self._path, "".join(json.dumps(row) + "\n" for row in kept))


class TensorBoardSink:
    """Every number of a row as a scalar curve."""

    def __init__(self, folder: Path, start_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._open = lambda step: SummaryWriter(str(folder), purge_step=step)
        self._writer = self._open(start_step + 1 if start_step else 0)

    def write(self, row: Row) -> None:
        for key, value in row.items():
            if key != "step" and isinstance(value, int | float):
                self._writer.add_scalar(key, value, row["step"])

    def rewind(self, step: int) -> None:
        self._writer.close()
        self._writer = self._open(step + 1)

    def close(self) -> None:
        self._writer.close()


class ScreenSink:
    """A progress bar on a terminal; one plain line a row where output is a file or a pipe."""

    def __init__(self, max_steps: int, start_step: int, console: Console | None = None) -> None:
        self._console = console or Console()
        self._max_steps = max_steps
        self._progress: Progress | None = None
        if self._console.is_terminal:
            self._progress = Progress(
                MofNCompleteColumn(),
                BarColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=self._console,
            )
            self._progress.start()
            self._task = self._progress.add_task("", total=max_steps, completed=start_step)

    def write(self, row: Row) -> None:
        text = describe(row)
        if self._progress is None:
            left = f"  left {_clock(row['seconds_left'])}" if "seconds_left" in row else ""
            self._console.print(f"step {row['step']}/{self._max_steps}  {text}{left}", soft_wrap=True, highlight=False)
        elif any(key.startswith("eval_") for key in row):
            self._progress.console.print(f"step {row['step']}  {text}", highlight=False)
        else:
            self._progress.update(self._task, completed=row["step"], description=text)

    def rewind(self, step: int) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()


class LastingSink:
    """A sink that a full or read-only disk does not end the run for: it says so, once for each time that it begins to fail."""

    def __init__(self, sink: Sink, console: Console) -> None:
        self._sink, self._console, self._failing = sink, console, False

    def write(self, row: Row) -> None:
        self._try(lambda: self._sink.write(row))

    def rewind(self, step: int) -> None:
        self._try(lambda: self._sink.rewind(step))

    def close(self) -> None:
        self._try(self._sink.close)

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            if not self._failing:
                line = f"WARNING: the log cannot be written ({error}); training goes on, rows may be missing; make room"
                self._console.print(line, style="bold red", highlight=False, markup=False, soft_wrap=True)
            self._failing = True
        else:
            self._failing = False


def _lies_before(row: Row, step: int) -> bool:
    """Whether a row is of a run at `step`: no later one, or of how it came back to it."""
    return bool(row["step"] <= step or row.get("rolled_back_to", math.inf) <= step)


def read_rows(path: Path) -> list[Row]:
    """The rows of a `metrics.jsonl`, without half a last line that a killed process may have left."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [row for row in map(_whole_row, lines) if row is not None]


def describe(row: Row) -> str:
    """The figures of a row that fit on one line of a terminal."""
    shown = {
        "loss": "loss {:.4g}",
        "fvu": "fvu {:.3f}",
        "accuracy": "accuracy {:.3f}",
        "tokens_per_second": "{:,.0f} tok/s",
        "mfu": "mfu {:.1%}",
        "learning_rate": "lr {:.2e}",
        "grad_norm": "norm {:.3g}",
        "eval_loss": "validation loss {:.4g}",
        "eval_nll": "validation nll {:.4g}",
        "eval_fvu": "validation fvu {:.4f}",
        "eval_accuracy": "validation accuracy {:.3f}",
    }
    return "  ".join(form.format(row[key]) for key, form in shown.items() if key in row)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _whole_row(line: str) -> Row | None:
    """A row of the log; None of half a last line, which a killed process may leave, and of what else is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
