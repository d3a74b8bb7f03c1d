"""The command line: one module a command, the same for `mtllm-ds NAME`, `python -m mtllm_ds NAME` and `launchers/NAME.py`.

A command's `main(arguments)` parses, calls the floors below and returns the exit status. It imports what is slow only once its
arguments are known to be right.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import mtllm_ds
from mtllm_ds.command_line import quiet_libraries, run_and_exit
from mtllm_ds.errors import UserError

COMMANDS = {
    "list": "recipes, tasks and DeepSpeed files that ship, to be called by name",
    "prepare": "a tokenizer; raw text or a task into shards; a teacher's targets; a look at shards",
    "plan": "memory, traffic and time of a recipe on a cluster, without weights or a GPU",
    "doctor": "look at a cluster before a run: versions, disks, shared folders, links, devices",
    "train": "train a recipe",
    "export": "a run's model as a folder to use and to share",
    "evaluate": "ask an exported model, score retrieval, make tables and a report",
    "generate": "responses to a file of prompts",
    "translate": "the items of a task through an MT model",
}
"""Every command with what it does, in the order of use."""

_USAGE = "usage: mtllm-ds COMMAND ...    (mtllm-ds COMMAND --help shows what a command takes)"


def run_command(arguments: Sequence[str]) -> int:
    """Run `COMMAND ...`; without a command, or with --help, say which there are."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("\n".join([_USAGE, "", *(f"  {name:11}{what}" for name, what in COMMANDS.items())]))
        return 0 if arguments else UserError.exit_status
    name, *rest = arguments
    if name == "--version":
        print(f"mtllm-ds {mtllm_ds.__version__}")
        return 0
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.0)[0]
        given = " ".join(name.split())
        raise UserError(f"mtllm-ds {given}: no such command, try '{nearest}'; there are {', '.join(COMMANDS)}")
    return importlib.import_module(f"mtllm_ds.commands.{name}").main(rest)


def launch(*command: str) -> NoReturn:
    """Run `command` with the process's arguments and end the process: all that a script does."""
    given = sys.argv[1:]
    # Launchers put this before the arguments; the environment says the same.
    if given and given[0].startswith(("--local_rank=", "--local-rank=")):
        given = given[1:]
    quiet_libraries()
    run_and_exit(lambda: run_command([*command, *given]))
