"""A trained model from wherever it lies: the folder of a run, or that of an export."""

from __future__ import annotations

from pathlib import Path

from mtllm_ds.checkpoint.export import is_export, read_export
from mtllm_ds.checkpoint.model import Trained, trained_from_run
from mtllm_ds.config.sections import ModelSettings
from mtllm_ds.data.text.tokenization import TokenizerSpec
from mtllm_ds.errors import UserError

__all__ = ["Trained", "read_trained", "tokenizer_specs"]


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


def tokenizer_specs(trained: Trained, model: ModelSettings) -> dict[str, TokenizerSpec]:
    """The tokenizers of a model's sides: an export's own, those of the base models (`model` says where they are) for a run."""
    if is_export(trained.place):
        export = read_export(trained.place)
        return {side: export.tokenizer_spec(side) for side in model.sides}
    return {
        side: TokenizerSpec(
            name=model.given[side].name,
            revision=model.given[side].revision,
            side=side,
            family=trained.bases[side].get("tokenizer_family") or "auto",
            max_length=model.given[side].max_length,
            trust_remote_code=model.given[side].trust_remote_code,
        )
        for side in model.sides
    }
