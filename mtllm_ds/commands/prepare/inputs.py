"""Options that name files of text and the language of each: FILE with --language, or CODE=FILE."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from mtllm_ds.config.shipped import shipped_place
from mtllm_ds.errors import UserError

if TYPE_CHECKING:
    from mtllm_ds.data.writing.sources import InputFile


def add_text_inputs(parser: argparse.ArgumentParser) -> None:
    """`--input`, `--language`, `--language-field`, `--text-field`."""
    add = parser.add_argument
    add(
        "--input",
        nargs="+",
        required=True,
        metavar="FILE",
        help="JSONL, TSV (.gz .xz .bz2 .zst), Parquet; or CODE=FILE",
    )
    add("--language", help="FLORES-200 code of the inputs, such as eng_Latn")
    add("--language-field", help="field that holds each document's code")
    add("--text-field", default="text", help="JSON key, column name, or column number from 1 of a TSV without header")


def text_inputs(options: argparse.Namespace, **fields: Any) -> tuple[InputFile, ...]:
    """What `--input` names, in order; `fields` are further ones of `InputFile`."""
    return tuple(_input_file(options, given, fields) for given in options.input)


def _input_file(options: argparse.Namespace, given: str, fields: dict[str, Any]) -> InputFile:
    from mtllm_ds.data.writing.sources import InputFile

    named = re.fullmatch(r"([a-z]{3}_[A-Z][a-z]{3})=(.+)", given)
    if named and (options.language or options.language_field):
        raise UserError(f"--input={given}: names its language; leave out --language and --language-field")
    return InputFile(
        path=str(shipped_place(named[2] if named else given)),
        language=named[1] if named else options.language,
        language_field=options.language_field,
        text_field=options.text_field,
        **fields,
    )
