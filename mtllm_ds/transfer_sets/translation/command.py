"""A command as a translator: sentences on its standard input, a line each, translations on its standard output, a line each.

It is started anew for each batch and gets no other argument, so any program will do: `command:apertium eng-spa`,
`command:./my_translator --to spanish`. Apertium is known by name (`apertium.py`).
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from mtllm_ds.child_processes import run_alone
from mtllm_ds.errors import UserError
from mtllm_ds.languages import check_language
from mtllm_ds.transfer_sets.translation.apertium import Apertium, is_apertium

PREFIX = "command:"
BATCH_SIZE = 256
"""Sentences per start of the command: Apertium's takes some tenths of a second."""
TIME_OUT_SECONDS = 600.0
_NO_LINE = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


class CommandEngine:
    """An `Engine` that starts a program.

    Args:
        command: as one types it in a shell; nothing of it is expanded
        time_out_seconds: that a batch of 256 sentences may take
        option: that names it, for messages

    Raises:
        UserError: there is no such program, or it is Apertium without the data of this direction.
    """

    batch_size = BATCH_SIZE

    def __init__(self, command: str, time_out_seconds: float = TIME_OUT_SECONDS, option: str = "--translator") -> None:
        self._name = f"{option}={PREFIX}{command}"
        try:
            self._arguments = shlex.split(command)
        except ValueError as error:
            raise UserError(f"{self._name}: {error}; quote it as in a shell") from error
        if not self._arguments:
            raise UserError(f"{self._name}: no command; such as {PREFIX}'apertium eng-spa'")
        self._time_out_seconds = time_out_seconds
        self._apertium = Apertium(self._name, self._arguments) if is_apertium(self._arguments) else None
        if self._apertium is None and shutil.which(self._arguments[0]) is None:
            raise UserError(f"{self._name}: {self._arguments[0]} is not installed, or not on the PATH; install it")

    def key(self, source: str, target: str) -> dict[str, Any]:
        """The command's words; of Apertium also a hash of its linguistic data. Another program's own changes are not seen."""
        key = {"command": self._arguments, "source": check_language(source), "target": check_language(target)}
        if self._apertium is not None:
            self._apertium.check_direction(source, target)
            key["data"] = self._apertium.fingerprint
        return key

    def length(self, sentence: str, source: str) -> int:
        return len(sentence)

    def fits(self, sentence: str, source: str) -> bool:
        return True

    def translate(self, sentences: Sequence[str], source: str, target: str) -> list[str]:
        """One start of the command.

        Raises:
            UserError: it fails, takes too long, or answers with another number of lines.
        """
        lines = [_NO_LINE.sub(" ", sentence) for sentence in sentences]
        if self._apertium is not None:
            found = self._apertium.split(self._run(self._apertium.command, self._apertium.joined(lines)))
        else:
            found = self._run(self._arguments, "\n".join(lines) + "\n").removesuffix("\n").split("\n")
        if len(found) != len(lines):
            raise UserError(
                f"{self._name}: answered {len(lines)} sentences with {len(found)} lines; it must write one line for each"
            )
        return [line.strip() for line in found]

    def _run(self, command: Sequence[str], text: str) -> str:
        try:
            done = run_alone(command, text.encode("utf-8", "replace"), self._time_out_seconds)
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"{self._name}: gave no answer within {self._time_out_seconds:g} seconds; "
                "see what it waits for, or raise --time-out"
            ) from error
        except OSError as error:
            raise UserError(
                f"{self._name}: cannot be started ({error.strerror}); make it a program that runs"
            ) from error
        if done.returncode:
            said = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
            raise UserError(
                f"{self._name}: ended with status {done.returncode} ({said[-1][:300] if said else 'nothing on stderr'}); "
                "try it by hand"
            )
        try:
            return done.stdout.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{self._name}: its answer is not UTF-8; make it write UTF-8") from error
