"""Options that name files of text and the language of each: FILE with --language, or CODE=FILE."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from mtllm_ds.config.shipped import shipped_place
from mtllm_ds.errors import UserError

if TYPE_CHECKING:
    from mtllm_ds.data.writing.sources import InputFile


_NAMED = re.compile(r"([a-z]{3}_[A-Z][a-z]{3})=(.+)")


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


def named_files(options: argparse.Namespace, option: str) -> tuple[InputFile, ...]:
    """What another option of the form CODE=FILE names, read as the inputs are."""
    from mtllm_ds.data.writing.sources import InputFile

    found = []
    for given in getattr(options, option.replace("-", "_")):
        named = _NAMED.fullmatch(given)
        if named is None:
            raise UserError(f"--{option}={given}: names no language; give it as CODE=FILE, such as deu_Latn=FILE")
        found.append(InputFile(path=str(shipped_place(named[2])), language=named[1], text_field=options.text_field))
    return tuple(found)


def named_input(given: str) -> tuple[str | None, str]:
    """Language code (None where it names none) and place of FILE or CODE=FILE."""
    named = _NAMED.fullmatch(given)
    return (named[1], str(shipped_place(named[2]))) if named else (None, str(shipped_place(given)))


def _input_file(options: argparse.Namespace, given: str, fields: dict[str, Any]) -> InputFile:
    from mtllm_ds.data.writing.sources import InputFile

    language, place = named_input(given)
    if language and (options.language or options.language_field):
        raise UserError(f"--input={given}: names its language; leave out --language and --language-field")
    return InputFile(
        path=place,
        language=language or options.language,
        language_field=options.language_field,
        text_field=options.text_field,
        **fields,
    )
