"""An export: what a user needs to run the model, copied by name from a checkpoint.

config.json                 format, reader, task, base models, connector, where it comes from
connector.safetensors       weights of the connector (fp32); stacked models only
centring.safetensors        means by language, where the connector centres
head.safetensors            weights of the task head (fp32), where there is one
adapter/                    LoRA in PEFT's own format
tokenizers/{encoder,llm}/   tokenizers of the sides that the reader needs
README.md                   model card with the base models' licences
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import mtllm_ds
from mtllm_ds import atomic
from mtllm_ds.checkpoint.adapters import read_adapter, write_adapter
from mtllm_ds.checkpoint.model import Trained, task_entry, trained_from_run
from mtllm_ds.checkpoint.model_card import model_card
from mtllm_ds.config.sections import ConnectorSettings, EncoderSettings, LLMSettings, ModelSettings
from mtllm_ds.data.shards.manifest import TaskEntry
from mtllm_ds.data.text.tokenization import TokenizerSpec, family_of, pretrained_tokenizer
from mtllm_ds.errors import UserError

FORMAT = 3
_READABLE = (1, 2, 3)
_PARTS = ("connector", "centring", "head")
_IDENTITY = ("fingerprint", "weights", "tokenizer_family")
"""What tells a base model from others, and how texts are made for it; the rest of a base are its settings."""


@dataclass(frozen=True)
class Export:
    """An export folder whose description was read."""

    folder: Path
    config: dict[str, Any]

    @property
    def reader(self) -> str:
        """`stacked`, `llm` or `encoder`."""
        return str(self.config.get("reader", "stacked"))

    @property
    def task(self) -> TaskEntry | None:
        """What its head answers; None without a head."""
        return task_entry(self.config.get("task"))

    @property
    def objective(self) -> str | None:
        """Name of the objective that it was trained by."""
        return self.config.get("objective")

    @property
    def bases(self) -> dict[str, dict[str, Any]]:
        """By side: name, revision, limits, fingerprint, family of the tokenizer and, of the hub's, hash of the weights."""
        return self.config["bases"]

    def tokenizer_folder(self, side: str) -> Path:
        return self.folder / "tokenizers" / side

    def tokenizer_spec(self, side: Literal["encoder", "llm"]) -> TokenizerSpec:
        """The tokenizer of one side: in a folder without a model, so that its family must be told."""
        base = self.bases[side]
        return TokenizerSpec(
            name=str(self.tokenizer_folder(side)),
            side=side,
            family=base.get("tokenizer_family") or "auto",  # before exports remembered it
            max_length=base["max_length"],
            trust_remote_code=base["trust_remote_code"],
        )

    def trained(self) -> Trained:
        """The model with its weights; `UserError` if a file cannot be read."""
        bases = {side: {k: v for k, v in base.items() if k not in _IDENTITY} for side, base in self.bases.items()}
        side = "encoder" if self.reader == "encoder" else "llm"
        weights, lora = read_adapter(self.folder / "adapter", side)
        parts = {part: self._part(part) for part in _PARTS}
        for part in ("connector", "centring"):
            weights |= {f"{part}.{name}": tensor for name, tensor in parts[part].items()}
        return Trained(
            place=self.folder,
            model=ModelSettings(
                reader=self.reader,  # type: ignore[arg-type]
                encoder=EncoderSettings(**bases["encoder"]),
                llm=LLMSettings(**bases["llm"], bidirectional=self.config["bidirectional"]),
                connector=ConnectorSettings(**self.config["connector"]),
                lora=lora,
            ),
            bases=self.bases,
            weights=weights,
            head=parts["head"] or None,
            task=self.task,
            objective=str(self.objective),
            step=self.config["step"],
            metrics=self.config["metrics"],
        )

    def _part(self, part: str) -> dict[str, torch.Tensor]:
        path = self.folder / f"{part}.safetensors"
        expected = {"connector": self.reader == "stacked", "head": self.task is not None, "centring": False}[part]
        if not expected and not path.exists():
            return {}
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"export {self.folder}: {path.name} cannot be read ({error}); export it again") from error


def export_run(run: Path, output: Path, step: int | None = None) -> Trained:
    """Write the export of a run's best checkpoint (or that of `step`); returns what was exported."""
    trained = trained_from_run(run, step)
    if output.exists() and not is_export(output) and not _is_empty_folder(output):
        raise UserError(f"output {output}: exists and is not an export; choose another folder")
    with atomic.new_folder(output) as temporary:
        _write_parts(temporary, trained)
        adapted = trained.bases[trained.adapted_side]
        write_adapter(
            temporary / "adapter", trained.weights, trained.model.lora, str(adapted["name"]), adapted["revision"]
        )
        families = _write_tokenizers(temporary / "tokenizers", trained)
        atomic.write_json(temporary / "config.json", _config(trained, families))
        atomic.write_text(temporary / "README.md", model_card(trained))
    return trained


def is_export(folder: Path) -> bool:
    """Was this folder written by `export_run`? The `config.json` of a Hugging Face model has no format of ours."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and {"format", "mtllm_ds", "bases"} <= config.keys()


def read_export(folder: Path) -> Export:
    """Read an export's description; `UserError` if it is missing, damaged or newer than this version."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"export {folder}: config.json cannot be read ({error}); name a folder written by `mtllm-ds export`"
        ) from error
    if not is_export(folder):
        raise UserError(
            f"export {folder}: its config.json is not of an export; name a folder written by `mtllm-ds export`"
        )
    if config["format"] not in _READABLE:
        raise UserError(
            f"export {folder}: format {config['format']} (written by mtllm-ds {config['mtllm_ds']}), this is "
            f"mtllm-ds {mtllm_ds.__version__} and reads up to format {FORMAT}; install the version that wrote it"
        )
    return Export(folder, config)


def _write_parts(folder: Path, trained: Trained) -> None:
    tensors: Mapping[str, torch.Tensor] = trained.weights | {f"head.{n}": t for n, t in (trained.head or {}).items()}
    for part in _PARTS:
        own = {name.removeprefix(f"{part}."): t for name, t in tensors.items() if name.startswith(f"{part}.")}
        if own:
            save_file(own, folder / f"{part}.safetensors")


def _config(trained: Trained, families: Mapping[str, str]) -> dict[str, Any]:
    model = trained.model
    bases = {
        side: {
            "name": trained.bases[side]["name"],
            "revision": chosen.revision,
            "max_length": chosen.max_length,
            "trust_remote_code": chosen.trust_remote_code,
            "fingerprint": trained.bases[side]["fingerprint"],
            "weights": trained.bases[side].get("weights"),
            "tokenizer_family": families.get(side),
        }
        for side, chosen in (("encoder", model.encoder), ("llm", model.llm))
    }
    return {
        "format": FORMAT,
        "mtllm_ds": mtllm_ds.__version__,
        "reader": model.reader,
        "objective": trained.objective,
        "task": trained.task and asdict(trained.task),
        "bases": bases,
        "connector": model.connector.model_dump(mode="json"),
        "bidirectional": model.llm.bidirectional,
        "step": trained.step,
        "metrics": trained.metrics,
    }


def _write_tokenizers(folder: Path, trained: Trained) -> dict[str, str]:
    """Write those that the reader needs; returns their families, which the base model's own files may tell."""
    families: dict[str, str] = {}
    for side in trained.model.sides:
        base = getattr(trained.model, side)
        spec = TokenizerSpec(
            name=base.name,
            revision=base.revision,
            side=side,
            family=trained.bases[side].get("tokenizer_family") or "auto",
            trust_remote_code=base.trust_remote_code,
        )
        tokenizer = pretrained_tokenizer(spec)
        tokenizer.save_pretrained(str(folder / side))
        families[side] = family_of(spec, tokenizer)
    return families


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
