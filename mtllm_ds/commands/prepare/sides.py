"""The sides that read every sample, MT encoder and LLM or one of them: options that name their tokenizers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mtllm_ds.command_line import positive_int
from mtllm_ds.errors import UserError


def add_sides(parser: argparse.ArgumentParser, *, token_pairs: bool = True) -> None:
    """Options that say what the tokenizers are, and what of both is compared."""
    add = parser.add_argument
    add("--encoder", help="tokenizer of the MT encoder: folder or hub name (leave it out for an LLM that reads alone)")
    add("--encoder-revision")
    add("--encoder-family", default="auto", help="template of the encoder's ids: nllb, m2m100, t5, madlad, xlm-r, bert")
    add("--llm", help="tokenizer of the LLM: folder or hub name (leave it out for an encoder that reads alone)")
    add("--llm-revision")
    add("--llm-family", default="auto", help="template of the LLM's ids: decoder, bert, xlm-r")
    add("--trust-remote-code", action="store_true", help="run the code that a tokenizer may bring")
    add(
        "--max-length",
        type=positive_int,
        default=512,
        help="most tokens of a sample on either side (default %(default)s)",
    )
    if not token_pairs:
        return
    add(
        "--token-pairs",
        action="store_true",
        help="store which words are one token on both sides (objective.token_weight)",
    )


def sides_of(options: argparse.Namespace) -> dict[str, Any]:
    """What the tokenizers are, by side."""
    from mtllm_ds.config.names import resolve_model_name
    from mtllm_ds.data.text.tokenization import TokenizerSpec

    for side in ("encoder", "llm"):
        for name, default in (("revision", None), ("family", "auto")):
            value = getattr(options, f"{side}_{name}")
            if getattr(options, side) is None and value != default:
                raise UserError(f"--{side}-{name}={value}: has no effect without --{side}; remove it or give --{side}")
    return {
        side: TokenizerSpec(
            name=resolve_model_name(getattr(options, side)),
            revision=getattr(options, f"{side}_revision"),
            family=getattr(options, f"{side}_family"),
            trust_remote_code=options.trust_remote_code,
            side=side,
            max_length=options.max_length,
        )
        for side in ("encoder", "llm")
        if getattr(options, side) is not None
    }


def chat_template_of(file: Path | None) -> str | None:
    """The content of `--chat-template`, None for the tokenizer's own."""
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--chat-template={file}: cannot be read ({error}); name a file with a Jinja template"
        ) from error
