"""How every command begins and ends: its options, its exit status, and one line on stderr for a mistake of the user."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeAlias

from mtllm_ds.errors import PeerFailedError, UnsoundStepError, UserError
from mtllm_ds.redaction import redacted


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are a `UserError`: one line from one rank, where argparse prints its usage on each."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {' '.join(message.split())}; see --help")


Subcommands: TypeAlias = "argparse._SubParsersAction[Parser]"
"""What `add_subparsers` returns; each parser added to it sets the default `run`, a function of the parsed options."""


def run_subcommand(parser: Parser, add: Sequence[Callable[[Subcommands], None]], arguments: Sequence[str]) -> int:
    """Give `parser` its subcommands, parse, and run the one that was asked for."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add_to in add:
        add_to(commands)
    options = parser.parse_args(arguments)
    options.run(options)
    return 0


def positive_int(text: str) -> int:
    """An option's whole number from 1 up."""
    return _whole_number(text, least=1)


def natural_int(text: str) -> int:
    """An option's whole number from 0 up."""
    return _whole_number(text, least=0)


def positive_float(text: str) -> float:
    """An option's number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no number above 0")
    return number


def temperature(text: str) -> float:
    """An option's temperature: above 0, or 0 for greedy."""
    return 0.0 if text in ("0", "0.0") else positive_float(text)


def _whole_number(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number of at least {least}")
    return number


def run_and_exit(main: Callable[[], int]) -> NoReturn:
    """Run `main` and end the process with its status.

    After a failure the process ends at once: peers may be inside a collective that will never finish.
    """
    try:
        status = main()
    except (UserError, UnsoundStepError) as error:
        if _speaks():
            print(redacted(f"error: {error}"), file=sys.stderr)
        status = error.exit_status
    except PeerFailedError as error:
        status = error.exit_status
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # who read it has seen enough, as in `mtllm-ds list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except Exception:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if status:
        os._exit(status)
    sys.exit(0)


def _speaks() -> bool:
    """Does this rank print a mistake? Once ranks are joined, only the one they agreed on gets here; before, one a node."""
    distributed = sys.modules.get("torch.distributed")
    joined = distributed is not None and distributed.is_initialized()
    return joined or os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"


def quiet_libraries() -> None:
    """Keep transformers and DeepSpeed to what a user can act on, so that what is printed is ours."""
    warnings.simplefilter("ignore", FutureWarning)  # of one library to another
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def add_precision(parser: argparse.ArgumentParser, default: str = "auto", note: str = "") -> None:
    """`--precision` of a command that reads with a trained model; `reading_dtype` says what it comes to."""
    what = f"of the model's reading; auto: bf16 where the device has bf16 products{note} (default %(default)s)"
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default=default, help=what)
