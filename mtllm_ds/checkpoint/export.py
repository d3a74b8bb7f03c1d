"""An export: what a user needs to run the model, copied by name from a checkpoint.

config.json                 format, reader, task, base models, connector, pooling, where it comes from
connector.safetensors       weights of the connector (fp32); stacked models only
layer_mix.safetensors       weights of the encoder's layers (fp32), where several are mixed
centring.safetensors        means by language, where the connector centres
head.safetensors            weights of the task head (fp32), where there is one
adapter/                    LoRA in PEFT's own format, where LoRA trained
trained.safetensors         fp32 weights of base models that trained themselves, of LLM and encoder, where some did
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
from mtllm_ds.checkpoint.model import LAYOUT, Trained, chat_entry, task_entry, trained_from_run
from mtllm_ds.checkpoint.model_card import model_card
from mtllm_ds.config.sections import ConnectorSettings, EncoderSettings, LLMSettings, LoraSettings, ModelSettings
from mtllm_ds.data.shards.manifest import TaskEntry
from mtllm_ds.data.text.tokenization import TokenizerSpec, family_of, pretrained_tokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.weight_names import CENTRING, CONNECTOR, LAYER_MIX, is_addition, part

FORMAT = 8
_READABLE = (1, 2, 3, 4, 5, 6, 7, 8)
_OF_THE_STACK = {"connector": CONNECTOR, "layer_mix": LAYER_MIX, "centring": CENTRING}
_PARTS = (*_OF_THE_STACK, "head", "trained")
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
        trainable = self.config.get("trainable", "lora")
        weights, lora = read_adapter(self.folder / "adapter", side) if trainable == "lora" else ({}, LoraSettings())
        parts = {name: self._part(name) for name in _PARTS}
        weights |= parts["trained"]
        for part_name, prefix in _OF_THE_STACK.items():
            weights |= {f"{prefix}{name}": tensor for name, tensor in parts[part_name].items()}
        return Trained(
            place=self.folder,
            model=ModelSettings(
                reader=self.reader,  # type: ignore[arg-type]
                encoder=EncoderSettings(**bases["encoder"]) if "encoder" in bases else None,
                llm=LLMSettings(**bases["llm"], **self._of_llm()) if "llm" in bases else None,
                trainable=trainable,
                connector=ConnectorSettings(**self.config["connector"]),
                lora=lora,
                pooling=self.config.get("pooling", "mean"),
            ),
            bases=self.bases,
            weights=weights,
            head=parts["head"] or None,
            task=self.task,
            chat=chat_entry(self.config.get("chat")),
            layout=self.config.get("layout", LAYOUT),
            lm_head=None,
            objective=str(self.objective),
            step=self.config["step"],
            metrics=self.config["metrics"],
        )

    def _of_llm(self) -> dict[str, Any]:
        """Settings of the language model alone."""
        return {"bidirectional": self.config["bidirectional"], "quantization": self.config.get("quantization")}

    def _part(self, name: str) -> dict[str, torch.Tensor]:
        path = self.folder / f"{name}.safetensors"
        is_tuned = self.config.get("trainable", "lora") != "lora" or self.config.get("encoder_trained", False)
        expected = {
            "connector": self.reader == "stacked",
            "layer_mix": self.config["connector"].get("layers", "last") != "last",
            "head": self.task is not None,
            "trained": is_tuned,
        }.get(name)
        if not expected and not path.exists():
            return {}
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"export {self.folder}: {path.name} cannot be read ({error}); export it again") from error


def export_run(run: Path, output: Path, step: int | None = None) -> Trained:
    """Write the export of a run's best checkpoint (or that of `step`); returns what was exported."""
    trained = trained_from_run(run, step)
    write_export(trained, output)
    return trained


def write_export(trained: Trained, output: Path) -> None:
    """Write the export of a trained model; an older export gives way."""
    assert trained.lm_head is None, "a language model with its head becomes a Hugging Face folder"
    if output.exists() and not is_export(output) and not _is_empty_folder(output):
        raise UserError(f"output {output}: exists and is not an export; choose another folder")
    with atomic.new_folder(output) as temporary:
        _write_parts(temporary, trained)
        if trained.model.trainable == "lora":
            base = trained.bases[trained.trained_side]
            write_adapter(
                temporary / "adapter", trained.weights, trained.model.lora, str(base["name"]), base["revision"]
            )
        families = _write_tokenizers(temporary / "tokenizers", trained)
        atomic.write_json(temporary / "config.json", _config(trained, families))
        atomic.write_text(temporary / "README.md", model_card(trained))


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
    if "model_type" in config:
        raise UserError(
            f"export {folder}: its config.json is not of an export but of a model of transformers, which loads that itself; "
            "name a folder written by `mtllm-ds export`"
        )
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
    weights = trained.weights
    parts = {
        **{name: part(weights, prefix) for name, prefix in _OF_THE_STACK.items()},
        "head": trained.head or {},
        "trained": {name: tensor for name, tensor in weights.items() if not is_addition(name)},
    }
    for name, own in parts.items():
        if own:
            save_file(own, folder / f"{name}.safetensors")


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
        for side, chosen in model.given.items()
    }
    return {
        "format": FORMAT,
        "mtllm_ds": mtllm_ds.__version__,
        "reader": model.reader,
        "objective": trained.objective,
        "task": trained.task and asdict(trained.task),
        "chat": trained.chat and asdict(trained.chat),
        "layout": trained.layout,
        "bases": bases,
        "connector": model.connector.model_dump(mode="json"),
        "trainable": model.trainable if isinstance(model.trainable, str) else list(model.trainable),
        "encoder_trained": trained.has_trained_encoder,
        "bidirectional": None if model.llm is None else model.llm.bidirectional,
        "quantization": None if model.llm is None else model.llm.quantization,
        "pooling": model.pooling,
        "step": trained.step,
        "metrics": trained.metrics,
    }


def _write_tokenizers(folder: Path, trained: Trained) -> dict[str, str]:
    """Write those that the reader needs; returns their families, which the base model's own files may tell."""
    families: dict[str, str] = {}
    for side in trained.model.sides:
        base = trained.model.given[side]
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
