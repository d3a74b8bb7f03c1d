"""`mtllm-ds prepare premiums`: byte premiums of languages, measured on parallel text."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtllm_ds.command_line import Subcommands
from mtllm_ds.commands.text_inputs import add_text_inputs, text_inputs
from mtllm_ds.languages import ENGLISH


def add_premiums(commands: Subcommands) -> None:
    """`premiums` among the subcommands."""
    premiums = commands.add_parser(
        "premiums", help="bytes of each language for one of English, for data.mixing.byte_premiums"
    )
    premiums.set_defaults(run=run)
    add_text_inputs(premiums)
    add = premiums.add_argument
    add("--english-field", default="text_en", help="the English side, as --text-field (default %(default)s)")
    add("--output", type=Path, required=True, metavar="FILE", help="JSON of language code to premium")


def run(options: argparse.Namespace) -> None:
    from mtllm_ds.atomic import write_json
    from mtllm_ds.data.writing.output import check_output
    from mtllm_ds.data.writing.premiums import measure_premiums
    from mtllm_ds.errors import UserError

    check_output(options.output.parent)
    if options.output.is_dir():
        raise UserError(
            f"--output={options.output}: is a folder; name a file, such as {options.output / 'premiums.json'}"
        )
    found = measure_premiums(text_inputs(options, second_text_field=options.english_field))
    for code, own in found.items():
        error = f"± {1.96 * own.standard_error:.3f} (95%)"
        print(f"{code}  {own.premium:.3f} {error}  {own.num_pairs:,} pairs")
    write_json(options.output, {ENGLISH: 1.0} | {code: round(own.premium, 6) for code, own in found.items()})
    print(f"written to {options.output}")
