"""`mtllm-ds prepare tokenizer`: a vocabulary of one's own, sampled over languages."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mtllm_ds.command_line import Subcommands, natural_int, positive_float, positive_int
from mtllm_ds.commands.text_inputs import add_text_inputs, text_inputs


def add_tokenizer(commands: Subcommands) -> None:
    """`tokenizer` among the subcommands."""
    tokenizer = commands.add_parser("tokenizer", help="train a tokenizer on text of one or many languages")
    tokenizer.set_defaults(run=run)
    add_text_inputs(tokenizer)
    add = tokenizer.add_argument
    add("--algorithm", choices=("wordpiece", "bpe", "unigram"), default="wordpiece", help="bpe works on bytes")
    add(
        "--use",
        choices=("masked", "causal"),
        default="masked",
        help="masked: [CLS] x [SEP] and a mask; causal: <bos> x",
    )
    add("--vocab-size", type=positive_int, default=32_000, help="special tokens included (default %(default)s)")
    add(
        "--temperature",
        type=positive_float,
        default=3.0,
        help="a language's share of the sample is its bytes to the power 1/temperature (default %(default)s)",
    )
    add("--sample-megabytes", type=positive_int, default=256, help="text that is learned from (default %(default)s)")
    add("--unicode", choices=("nfc", "nfkc", "none"), default="nfc", help="form of characters (default %(default)s)")
    add("--lowercase", action="store_true")
    add("--strip-accents", action="store_true")
    add("--seed", type=natural_int, default=0, help="of the sample")
    add("--output", type=Path, required=True, metavar="DIR")


def run(options: argparse.Namespace) -> None:
    from mtllm_ds.data.writing.display import ReadingDisplay
    from mtllm_ds.data.writing.tokenizer_training import LanguageFigures, TokenizerSettings, train_tokenizer

    settings = TokenizerSettings(
        inputs=text_inputs(options), algorithm=options.algorithm, use=options.use, vocab_size=options.vocab_size,
        temperature=options.temperature, sample_bytes=options.sample_megabytes << 20, unicode_form=options.unicode,
        lowercase=options.lowercase, strip_accents=options.strip_accents, seed=options.seed,
    )  # fmt: skip
    with ReadingDisplay() as display:
        figures: dict[str, LanguageFigures] = train_tokenizer(settings, options.output.expanduser(), display.report)
    _print(figures, options.output)


def _print(figures: dict, output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{output}: on the first megabyte of each language", title_justify="left")
    table.add_column("language", no_wrap=True)
    for heading in ("bytes of text", "share of the sample", "tokens per word", "tokens per byte", "unknown"):
        table.add_column(heading, justify="right")
    for code, own in figures.items():
        per_unit = f"{own.tokens_per_unit:.2f}" + ("/character" if own.unit == "character" else "")
        shares = (f"{own.tokens_per_byte:.3f}", f"{own.unknown_share:.3%}")
        table.add_row(code, f"{own.text_bytes:,}", f"{own.sampled_share:.1%}", per_unit, *shares)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
