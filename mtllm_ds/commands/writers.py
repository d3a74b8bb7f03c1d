"""Options of commands that let a model write, and the model that they name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtllm_ds.command_line import add_precision, positive_int
from mtllm_ds.errors import UserError

if TYPE_CHECKING:
    import torch

    from mtllm_ds.inference import MTLLM

HELP = "a run, an export, or a language model of transformers as it is (folder, hub name or assets/llm)"


def add_model_options(add: Any) -> None:
    """Where the model's parts are; `add` is a parser's or a group's `add_argument`."""
    add("--encoder", help="where the encoder of a run or export is, if it moved")
    add("--llm", help="where its LLM is, if it moved")


def add_writing_options(parser: argparse.ArgumentParser, batch_size: int) -> None:
    """How much is written at once, and in which precision."""
    add = parser.add_argument
    add("--batch-size", type=positive_int, default=batch_size, help="prompts at once a rank (default %(default)s)")
    add_precision(parser, note=", which a CPU's decoding gains most by; fp32 elsewhere")


def load_writer(
    name: str, device: torch.device, dtype: torch.dtype, encoder: str | None = None, llm: str | None = None
) -> tuple[MTLLM, dict[str, str]]:
    """A model and what identifies it.

    Raises:
        UserError: it cannot be loaded, or parts are named of a model that has none.
    """
    from mtllm_ds.checkpoint.export import is_export
    from mtllm_ds.checkpoint.trained import read_trained
    from mtllm_ds.config.names import is_missing_folder, lasting_name, resolve_model_name
    from mtllm_ds.inference import MTLLM
    from mtllm_ds.models.loading import weights_fingerprint

    place = resolve_model_name(name)
    if (Path(place) / "checkpoints").is_dir() or is_export(Path(place)):
        trained = read_trained(place)
        model = MTLLM.from_pretrained(place, encoder=encoder, llm=llm, device=device, dtype=dtype)
        return model, {"model": lasting_name(name), "weights": trained.fingerprint}
    if is_missing_folder(place):
        raise UserError(f"model={name}: no such folder; name {HELP}")
    for option, value in (("encoder", encoder), ("llm", llm)):
        if value is not None:
            raise UserError(f"--{option}={value}: has no effect on a language model that is whole; leave it out")
    model = MTLLM.from_base("llm", place, device=device, dtype=dtype)
    return model, {"model": lasting_name(name), "weights": weights_fingerprint(place, None)}
