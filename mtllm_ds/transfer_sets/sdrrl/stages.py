"""A stage of the pipeline on disk: JSON lines that appear whole, and until then parts, so that a killed run loses a batch at most.

FOLDER/NAME.jsonl     the stage's rows, once it is done
FOLDER/NAME.json      what it was made with, and counts
FOLDER/.NAME/         until then: `settings.json`, and lines of each process
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mtllm_ds import atomic
from mtllm_ds.cluster.agree import together, wait_for_all
from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.cluster.patience import patiently
from mtllm_ds.data.text.padding import longest_first
from mtllm_ds.errors import UserError

Row = dict[str, Any]
"""Has an `id`, its own within the stage."""
Progress = Callable[[int, int], None]
"""(texts that are done, all that this rank has to do)"""


class _Job(Protocol):
    @property
    def id(self) -> str:
        """Of the row that it becomes."""


J = TypeVar("J", bound=_Job)


class Stage:
    """One stage in a folder that all ranks share; `finish` is for one of them.

    Args:
        settings: everything that decides the rows, as plain JSON values
        implied: what settings of older folders mean where they do not say it: {name: {key: value}}

    Raises:
        UserError: the folder holds this stage, done or begun, made with other settings, or files of its names that no stage left;
            or it cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        settings: Mapping[str, Any],
        implied: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.name = name
        self.path = folder / f"{name}.jsonl"
        self._summary = folder / f"{name}.json"
        self._parts = folder / f".{name}"
        self._settings = json.loads(json.dumps(settings))
        begun = self._parts / "settings.json"
        for place in (self._summary, begun):
            if place.exists():
                self._check(_filled(_settings_in(place), implied or {}))
        if self.path.exists() and not (self._summary.exists() or begun.exists()):
            raise UserError(
                f"--output: {self.path} is there, and {self._summary.name}, which says what it was made with, is not; choose "
                "another place, or move it away"
            )
        if not self.is_done and not begun.exists():
            with self._writing():
                atomic.write_json(begun, {"settings": self._settings})

    @property
    def is_done(self) -> bool:
        return self.path.exists() and self._summary.exists()

    @cached_property
    def rows(self) -> list[Row]:
        """Of a stage that is done, in order."""
        return read_rows(self.path)

    @cached_property
    def sha256(self) -> str:
        """Of the rows, for the settings of the next stage."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def counts(self) -> dict[str, Any]:
        return json.loads(self._summary.read_text(encoding="utf-8"))["counts"]

    def begun(self) -> dict[str, Row]:
        """Rows that any process has written so far, by id; a line that a killed one left unfinished is skipped."""
        found: dict[str, Row] = {}
        for path in sorted(self._parts.glob("*.jsonl")):
            for line in path.read_bytes().split(b"\n"):
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                found[row["id"]] = row
        return found

    def add(self, rows: Iterable[Row]) -> None:
        """Keep rows; on disk when this returns.

        Raises:
            UserError: the disk is full, or fails.
        """
        # A line of its own first: the process whose number this one has may have been killed within a line.
        text = "\n" + "".join(f"{_line(row)}\n" for row in rows)
        part = self._parts / f"{socket.gethostname()}-{os.getpid()}.jsonl"
        with self._writing(), part.open("a", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())

    def finish(self, rows: Sequence[Row], counts: Mapping[str, Any]) -> None:
        """Write the rows in order, and clear the parts.

        Raises:
            UserError: the disk is full, or fails.
        """
        with self._writing():
            atomic.write_text(self.path, "".join(f"{_line(row)}\n" for row in rows))
            atomic.write_json(self._summary, {"settings": self._settings, "counts": dict(counts)})
        shutil.rmtree(self._parts, ignore_errors=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What one rank cannot write is a mistake that all can be told of."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"--output={self.path.parent}: its {self.name} cannot be written ({error.strerror or error}); make room or mend "
                "its rights, and start again: what was written is kept"
            ) from error

    def _check(self, made_with: Mapping[str, Any]) -> None:
        for key in sorted({*made_with, *self._settings}):
            if made_with.get(key) != self._settings.get(key):
                raise UserError(
                    f"--output={self.path.parent}: its {self.name} were made with another {key} "
                    f"({_short(made_with.get(key))}, not {_short(self._settings.get(key))}); choose another folder, or remove "
                    f"{self.path.name}, {self._summary.name} and .{self.name} from it"
                )


def write_batches(
    jobs: Sequence[J],
    lengths: Sequence[int],
    write: Callable[[Sequence[J]], Iterable[Row]],
    stage: Stage,
    cluster: Cluster,
    *,
    batch_size: int,
    progress: Progress,
) -> dict[str, Row]:
    """Every job's row by id, from all ranks. Batches depend on the jobs alone; each is kept as soon as it is written.

    Args:
        lengths: of the jobs; those of similar length share a batch
        write: one batch to its rows

    Raises:
        UserError: a rank cannot write, or does not see what another has written.
    """
    known = stage.begun()
    batches = [[jobs[place] for place in places] for places in longest_first(lengths, batch_size)]
    # Whose a batch is depends on its number: what is on disk depends on when a rank looks.
    own = [batch for batch in batches[cluster.rank :: cluster.world_size] if any(job.id not in known for job in batch)]

    def work() -> None:
        done, total = 0, sum(map(len, own))
        progress(done, total)
        for batch in own:
            stage.add(write(batch))
            progress(done := done + len(batch), total)

    patiently(work, cluster.device)
    wait_for_all()

    def whole() -> dict[str, Row]:
        found = stage.begun()
        if unseen := sum(job.id not in found for job in jobs):
            raise UserError(
                f"--output={stage.path.parent}: {unseen} rows of {stage.name} that other ranks wrote are not seen by this one; "
                "choose a folder that all machines share, or start again once it shows them"
            )
        return found

    return together(whole, cluster.device)


def read_rows(path: Path) -> list[Row]:
    """The rows of a stage that is done."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def read_summary(folder: Path, name: str) -> tuple[list[Row], dict[str, Any]]:
    """Rows and counts of a stage that is done, whatever it was made with."""
    summary = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return read_rows(folder / f"{name}.jsonl"), summary["counts"]


def _settings_in(place: Path) -> dict[str, Any]:
    try:
        settings = json.loads(place.read_text(encoding="utf-8"))["settings"]
    except (ValueError, KeyError, TypeError):
        settings = None
    if not isinstance(settings, dict):
        raise UserError(
            f"--output: {place} does not say what was made there with what; choose another place, or move it away"
        )
    return settings


def _filled(settings: dict[str, Any], implied: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    said = {name: {**more, **settings[name]} for name, more in implied.items() if isinstance(settings.get(name), dict)}
    return settings | said


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
