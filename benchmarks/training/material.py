"""What all variants of a size read: base models with random weights, documents of given lengths, the recipe, and which documents
each forward of each rank holds.

    python -m benchmarks.training.material cpu FOLDER MODELS
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import AutoModel, LlamaConfig, M2M100Config
from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

from benchmarks.training.lengths import draw_lengths
from benchmarks.training.sizes import Size, size_named
from mtllm_ds import atomic
from mtllm_ds.config import load_settings
from mtllm_ds.config.deepspeed import resolve_deepspeed
from mtllm_ds.config.shipped import shipped_place
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.stream.stream import TrainStream
from mtllm_ds.data.text.tokenization import TextTokenizer, TokenizerSpec, load_text_tokenizer
from mtllm_ds.data.writing.output import Build, Progress, Result, id_columns

LANGUAGE, NUM_DOCUMENTS = "eng_Latn", 4096
RECIPE, DOCUMENTS, FORWARDS, TRAINER = "recipe.yaml", "documents.json", "forwards.json", "trainer.json"
_LEARNING_RATE = 2e-4
_FIRST_ID = 8
"""Of ids that are drawn: those before are special"""


def write_material(size: Size, folder: Path, models: Path) -> None:
    """Everything of a size into `folder`; base models into a folder of their own below `models`, which sizes share."""
    shutil.rmtree(folder, ignore_errors=True)
    places = write_models(size, models)
    documents = write_documents(size, folder, places)
    atomic.write_text(folder / RECIPE, yaml.safe_dump(recipe_of(size, folder, places)))
    atomic.write_json(folder / FORWARDS, forwards_of(size, folder))
    atomic.write_text(folder / DOCUMENTS, json.dumps(documents))
    atomic.write_json(folder / TRAINER, _settings_of_script(size, folder, places))


def write_models(size: Size, models: Path) -> dict[str, str]:
    """Both base models with the tokenizers of `assets/`, unless they are there: weights are drawn, so that none need be fetched.
    Where they are, by side."""
    shapes = json.dumps([size.encoder, size.llm, size.precision], sort_keys=True)
    folder = models / hashlib.sha256(shapes.encode()).hexdigest()[:12]
    if not folder.is_dir():
        with atomic.new_folder(folder) as new:
            _write_models(size, new)
    return {side: str(folder / side) for side in ("encoder", "llm")}


def _write_models(size: Size, folder: Path) -> None:
    dtype = torch.bfloat16 if size.precision == "bf16" else torch.float32
    torch.manual_seed(0)
    with torch.device(size.device):
        encoder = M2M100Encoder._from_config(M2M100Config(**size.encoder, encoder_layerdrop=0.0), dtype=dtype)
        _save(encoder, folder / "encoder", "assets/mt")
        del encoder
        _save(AutoModel.from_config(LlamaConfig(**size.llm), dtype=dtype), folder / "llm", "assets/llm")


def _save(model: Any, folder: Path, tokenizer: str) -> None:
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(shipped_place(tokenizer) / name, folder / name)


def write_documents(size: Size, folder: Path, places: dict[str, str]) -> dict[str, list[list[int]]]:
    """Shards of documents of random ids, whose lengths are those of the size; the same by side."""
    sides = [
        load_text_tokenizer(TokenizerSpec(name=places[side], side=side, max_length=size.max_length))
        for side in ("encoder", "llm")
    ]
    lengths = (
        np.full((NUM_DOCUMENTS, 2), size.lengths)
        if isinstance(size.lengths, int)
        else draw_lengths(size.lengths, NUM_DOCUMENTS)
    )
    generator = np.random.default_rng(1)
    samples: list[dict[str, list[int]]] = [
        {side.spec.side: _ids(side, int(length), generator) for side, length in zip(sides, row, strict=True)}
        for row in lengths
    ]
    columns = id_columns(sides, samples)
    statistics = Counter(
        samples=len(samples), encoder_tokens=int(lengths[:, 0].sum()), llm_tokens=int(lengths[:, 1].sum())
    )
    build = Build(
        output=folder / "data", settings_hash=f"benchmarks.training {size.name}", sides=sides, block_samples=256,
        shard_bytes=1 << 30, progress=Progress(0), report=lambda progress: None,
    )  # fmt: skip
    build.write(lambda journal: iter([Result(LANGUAGE, dict(columns), statistics)]))
    return {side.spec.side: [sample[side.spec.side] for sample in samples] for side in sides}


def _ids(side: TextTokenizer, length: int, generator: np.random.Generator) -> list[int]:
    return generator.integers(_FIRST_ID, min(side.vocab_size, 8000), size=length).tolist()


def recipe_of(size: Size, folder: Path, places: dict[str, str]) -> dict[str, Any]:
    """Stage 1 as a user would write it down."""
    packed = {"encoder_tokens_per_cell": size.max_length, "llm_tokens_per_cell": size.max_length}
    cells = packed if size.samples_per_cell is None else {"samples_per_cell": size.samples_per_cell}
    never = 10**6
    return {
        "run": {
            "output_dir": str(folder / "runs/ours"), "max_steps": never, "validate_every": never, "save_every": never,
            "tensorboard": False,
        },
        "model": {
            "encoder": {"name": places["encoder"], "max_length": size.max_length},
            "llm": {"name": places["llm"], "max_length": size.max_length, "bidirectional": True},
            "lora": size.lora,
        },
        "data": {
            "train": str(folder / "data"), "lanes": size.lanes, "cells_per_forward": size.cells_per_forward, **cells,
        },
        "objective": {"name": "pooled_alignment"},
        "optim": {"learning_rate": _LEARNING_RATE, "warmup_share": 0.0},
        "training": {"precision": size.precision, "deepspeed": size.deepspeed},
    }  # fmt: skip


def forwards_of(size: Size, folder: Path) -> list[list[list[list[int]]]]:
    """Documents of each forward: by step, by forward, by rank, as places in the data set."""
    settings = load_settings(folder / RECIPE, [])
    manifest = Manifest.load(folder / "data")
    streams = [
        iter(TrainStream(manifest, settings.data, rank=rank, world_size=size.num_ranks, seed=settings.run.seed))
        for rank in range(size.num_ranks)
    ]
    steps = []
    for _ in range(size.num_rounds + 1):
        of_rank = [next(stream).micro_batches for stream in streams]
        steps.append([[list(batch.host.sample_ids) for batch in forward] for forward in zip(*of_rank, strict=True)])
    return steps


def _settings_of_script(size: Size, folder: Path, places: dict[str, str]) -> dict[str, Any]:
    """What the Trainer's script is told: the recipe's numbers under the names that it knows, and the same DeepSpeed file."""
    settings = load_settings(folder / RECIPE, [])
    ds_config = resolve_deepspeed(
        settings, world_size=size.num_ranks, micro_batch_size=1, micro_batches_per_step=size.num_forwards
    )
    own = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    return {
        **places, "lora": size.lora, "precision": size.precision,
        "learning_rate": _LEARNING_RATE, "weight_decay": settings.optim.weight_decay,
        "gradient_accumulation_steps": size.num_forwards, "max_grad_norm": settings.optim.max_grad_norm,
        "deepspeed": {**ds_config, **dict.fromkeys(own, "auto")},
    }  # fmt: skip


if __name__ == "__main__":
    write_material(size_named(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
