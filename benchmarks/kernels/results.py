"""Where the kernels' figures are kept: benchmarks/results/<device>/kernels/."""

import csv
import json
import re
from pathlib import Path

import torch

from benchmarks.kernels.provenance import provenance


def folder(output: Path | None = None) -> Path:
    """The given folder or the device's own, made if need be."""
    device = "cpu"
    if torch.cuda.is_available():
        device = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    path = output or Path("benchmarks/results") / device / "kernels"
    path.mkdir(parents=True, exist_ok=True)
    return path


def save(name: str, rows: list[dict], summary: dict[str, float], output: Path | None = None) -> Path:
    """<name>.csv, its figures merged into summary.json (flat, name to number), where they come from beside them."""
    path = folder(output)
    with open(path / f"{name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    _merge(path / "summary.json", summary)
    _merge(path / "provenance.json", {name: provenance()})
    return path


def _merge(path: Path, more: dict) -> None:
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(old | more, indent=1, sort_keys=True) + "\n")
