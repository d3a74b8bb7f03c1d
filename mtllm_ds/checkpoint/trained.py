"""A trained model from wherever it lies: the folder of a run, or that of an export."""

from __future__ import annotations

from pathlib import Path

from mtllm_ds.checkpoint.export import read_export
from mtllm_ds.checkpoint.model import Trained, trained_from_run
from mtllm_ds.errors import UserError

__all__ = ["Trained", "read_trained"]


def read_trained(folder: str | Path, setting: str = "model") -> Trained:
    """The best checkpoint of a run, or an export; `setting` names what was asked for in the error."""
    path = Path(folder)
    if (path / "checkpoints").is_dir():
        return trained_from_run(path)
    if (path / "config.json").is_file():
        return read_export(path).trained()
    raise UserError(
        f"{setting}={folder}: neither a run (with checkpoints/) nor an export (with config.json); name one of the two"
    )
