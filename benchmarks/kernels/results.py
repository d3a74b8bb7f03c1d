"""Where figures are kept: benchmarks/results/<device>/kernels/, another benchmark's beside it, or a folder given by the caller.

Rows are written as they come: a run that is stopped half-way has lost nothing but the row it was at.
"""

import csv
import io
import json
import re
from pathlib import Path

import torch

from benchmarks.kernels.provenance import provenance
from mtllm_ds import atomic


def folder(output: Path | None = None, benchmark: str = "kernels") -> Path:
    """The given folder or the device's own, made if need be."""
    device = "cpu"
    if torch.cuda.is_available():
        device = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    path = output or Path("benchmarks/results") / device / benchmark
    path.mkdir(parents=True, exist_ok=True)
    return path


class Results:
    """<name>.csv, its figures merged into summary.json (flat, name to number), where they come from beside them."""

    def __init__(self, name: str, output: Path | None = None, *, more: bool = False) -> None:
        """`more` goes on with the rows that another process of the same run has written."""
        self.name, self.path = name, folder(output)
        self._table = self.path / f"{name}.csv"
        self.rows: list[dict] = []
        if more and self._table.exists():
            with open(self._table, newline="") as file:
                self.rows = list(csv.DictReader(file))
        origin = self.path / "provenance.json"
        atomic.write_json(origin, _with(origin, {name: provenance()}))

    def clear(self) -> None:
        """Forgets the rows of earlier runs."""
        self.rows = []
        self._table.unlink(missing_ok=True)

    def add(self, row: dict, summary: dict[str, float]) -> None:
        """One more row, and its figures."""
        self.rows.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in self.rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        atomic.write_text(self._table, text.getvalue())
        figures = self.path / "summary.json"
        atomic.write_figures(figures, _with(figures, summary))


def _with(path: Path, more: dict) -> dict:
    """What a JSON file holds and more, by name."""
    old = json.loads(path.read_text()) if path.exists() else {}
    return dict(sorted((old | more).items()))
