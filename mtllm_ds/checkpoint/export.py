"""An export: what a user needs to run the model, copied by name from a checkpoint.

config.json                 format, base models, connector, where it comes from
connector.safetensors       weights of the connector (fp32)
adapter/                    LoRA in PEFT's own format
tokenizers/{encoder,llm}/   both tokenizers
README.md                   model card with the base models' licences
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import mtllm_ds
from mtllm_ds import atomic
from mtllm_ds.checkpoint.model_card import model_card
from mtllm_ds.checkpoint.retention import folder_to_use
from mtllm_ds.checkpoint.store import CheckpointState, load_trainable, read_state
from mtllm_ds.config.load import parse_settings
from mtllm_ds.config.schema import ConnectorSettings, Settings
from mtllm_ds.errors import UserError

FORMAT = 1
_CONNECTOR = "stack.connector."
_LLM = "stack.llm."


@dataclass(frozen=True)
class Export:
    """An export folder that was read and found whole."""

    folder: Path
    bases: dict[str, dict[str, Any]]
    connector: ConnectorSettings
    bidirectional: bool

    @property
    def adapter_folder(self) -> Path:
        return self.folder / "adapter"

    def tokenizer_folder(self, side: str) -> Path:
        return self.folder / "tokenizers" / side

    def max_length(self, side: str) -> int:
        return int(self.bases[side]["max_length"])

    def connector_weights(self) -> dict[str, torch.Tensor]:
        """fp32 weights of the connector, under its own names."""
        try:
            return load_file(self.folder / "connector.safetensors")
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"export {self.folder}: connector.safetensors cannot be read ({error}); export it again"
            ) from error


def export_run(run: Path, output: Path, step: int | None = None) -> CheckpointState:
    """Write the export of a run's best checkpoint (or that of `step`); returns the checkpoint's state."""
    root = run / "checkpoints"
    folder = folder_to_use(root) if step is None else root / f"step_{step:08d}"
    if folder is None or not folder.is_dir():
        raise UserError(f"run {run}: no checkpoint{'' if step is None else f' of step {step}'} in {root}")
    state = read_state(folder)
    settings = parse_settings(state.settings, where=f"checkpoint {folder}")
    tensors = load_trainable(folder)
    if output.exists() and not (output / "config.json").is_file():
        raise UserError(f"output {output}: exists and is not an export; choose another folder")
    with atomic.new_folder(output) as temporary:
        connector = {n.removeprefix(_CONNECTOR): t for n, t in tensors.items() if n.startswith(_CONNECTOR)}
        save_file(connector, temporary / "connector.safetensors")
        _write_adapter(temporary / "adapter", tensors, settings, state)
        _write_tokenizers(temporary / "tokenizers", state)
        atomic.write_json(temporary / "config.json", _config(settings, state))
        atomic.write_text(temporary / "README.md", model_card(settings, state))
    return state


def read_export(folder: Path) -> Export:
    """Read an export's description; `UserError` if it is missing, damaged or newer than this version."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"export {folder}: config.json cannot be read ({error}); name a folder written by export.py"
        ) from error
    if config.get("format") != FORMAT:
        raise UserError(
            f"export {folder}: format {config.get('format')} (written by mtllm-ds {config.get('mtllm_ds')}), this is "
            f"mtllm-ds {mtllm_ds.__version__} and reads format {FORMAT}; install the version that wrote it"
        )
    return Export(
        folder=folder,
        bases=config["bases"],
        connector=ConnectorSettings(**config["connector"]),
        bidirectional=config["bidirectional"],
    )


def _config(settings: Settings, state: CheckpointState) -> dict[str, Any]:
    model = settings.model
    bases: dict[str, dict[str, Any]] = {}
    sides: tuple[tuple[Literal["encoder", "llm"], Any], ...] = (("encoder", model.encoder), ("llm", model.llm))
    for side, chosen in sides:
        bases[side] = {
            "name": state.bases[side]["name"],
            "revision": chosen.revision,
            "max_length": chosen.max_length,
            "trust_remote_code": chosen.trust_remote_code,
            "fingerprint": state.bases[side]["fingerprint"],
        }
    return {
        "format": FORMAT,
        "mtllm_ds": mtllm_ds.__version__,
        "objective": settings.objective.name,
        "bases": bases,
        "connector": model.connector.model_dump(mode="json"),
        "bidirectional": model.llm.bidirectional,
        "step": state.step,
        "metrics": state.metrics,
    }


def _write_adapter(folder: Path, tensors: dict[str, torch.Tensor], settings: Settings, state: CheckpointState) -> None:
    from peft import LoraConfig

    folder.mkdir()
    # PEFT's own files name no adapter: `...lora_A.default.weight` -> `...lora_A.weight`.
    weights = {
        name.removeprefix(_LLM).replace(".default.", "."): tensor
        for name, tensor in tensors.items()
        if name.startswith(_LLM)
    }
    assert all(tensor.numel() for tensor in weights.values()), "empty adapter"
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    layers = sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in weights})
    LoraConfig(
        r=settings.model.lora.rank,
        lora_alpha=settings.model.lora.alpha,
        lora_dropout=settings.model.lora.dropout,
        target_modules=layers,
        bias="none",
        inference_mode=True,
        base_model_name_or_path=state.bases["llm"]["name"],
        revision=settings.model.llm.revision,
    ).save_pretrained(str(folder))


def _write_tokenizers(folder: Path, state: CheckpointState) -> None:
    from transformers import AutoTokenizer

    for side, base in state.bases.items():
        tokenizer = AutoTokenizer.from_pretrained(base["name"], revision=base["revision"])
        tokenizer.save_pretrained(str(folder / side))
