"""A step of the facts benchmark: is this export a stack on this LLM, and which languages can its encoder be asked in?

Writes {languages} to --output: those of --languages that its encoder has a tag for, all where it needs none.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mtllm_ds.atomic import write_json
from mtllm_ds.command_line import Parser, quiet_libraries, run_and_exit
from mtllm_ds.errors import UserError
from mtllm_ds.inference import MTLLM
from mtllm_ds.languages import ENGLISH


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--stack", required=True, help="an export")
    add("--llm", required=True, help="the language model that is asked beside it")
    add("--languages", nargs="+", required=True)
    add("--output", type=Path, required=True)
    options = parser.parse_args()
    write_json(options.output, {"languages": readable(options.stack, options.llm, options.languages)})
    return 0


def readable(stack: str, llm: str, languages: Sequence[str]) -> list[str]:
    """The languages among these in which a stack reads.

    Raises:
        UserError: it has no encoder, cannot write, stands on another LLM, or reads none of the languages but English.
    """
    model = MTLLM.from_pretrained(stack, llm=llm)
    if "encoder" not in model.speaker(plain=False).sides:
        raise UserError(f"--stack={stack}: its LLM reads the questions itself; name the export of a stack")
    found = [code for code in languages if _reads(model, code)]
    if set(found) <= {ENGLISH}:
        asked = ", ".join(code for code in languages if code != ENGLISH)
        raise UserError(f"--stack={stack}: its encoder has a tag for none of {asked}; name another export")
    return found


def _reads(model: MTLLM, code: str) -> bool:
    """Of an empty text nothing but its language can be wrong."""
    try:
        model.ids(("",), code)
    except UserError:
        return False
    return True


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
