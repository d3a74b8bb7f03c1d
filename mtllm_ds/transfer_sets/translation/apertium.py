"""Apertium, the rule-based MT engine of Debian, as a command that translates each sentence as if it were alone.

Left to itself it moves words across line breaks, begins a stream in lower case in some directions, and marks words that it
does not know. So sentences are parted by empty lines, which end a sentence for it, the first one is ours, and `-u` is added.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from mtllm_ds.errors import UserError

DIRECTIONS = {
    "eng-spa": ("eng_Latn", "spa_Latn"), "spa-eng": ("spa_Latn", "eng_Latn"),
    "eng-cat": ("eng_Latn", "cat_Latn"), "cat-eng": ("cat_Latn", "eng_Latn"),
    "en-gl": ("eng_Latn", "glg_Latn"), "gl-en": ("glg_Latn", "eng_Latn"),
    "en-eo": ("eng_Latn", "epo_Latn"), "eo-en": ("epo_Latn", "eng_Latn"),
    "eu-en": ("eus_Latn", "eng_Latn"), "isl-eng": ("isl_Latn", "eng_Latn"), "mkd-eng": ("mkd_Cyrl", "eng_Latn"),
}  # fmt: skip
"""Directions with English in Debian's packages, and their languages here."""
_PACKAGES = {"spa-eng": "eng-spa", "cat-eng": "eng-cat", "gl-en": "en-gl", "en-eo": "eo-en"}
"""Directions whose package is named the other way round."""
_OPTIONS_WITH_VALUE = ("-d", "-f", "-m", "-o")


def is_apertium(arguments: Sequence[str]) -> bool:
    return Path(arguments[0]).name == "apertium"


class Apertium:
    """One direction of it.

    Args:
        name: of the option that asks for it, for messages
        arguments: `apertium [OPTIONS] DIRECTION`

    Raises:
        UserError: Apertium or the direction's data is not installed; the line names Debian's package.
    """

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self._name = name
        self.direction = _direction(arguments)
        if self.direction is None:
            raise UserError(f"{name}: names no direction; such as apertium eng-spa")
        package = f"apertium-{_PACKAGES.get(self.direction, self.direction)}"
        mend = f"on Debian: apt-get install {package}"
        program = shutil.which(arguments[0])
        if program is None:
            raise UserError(f"{name}: Apertium is not installed; {mend}")
        self._mode = _data(arguments, Path(program)) / "modes" / f"{self.direction}.mode"
        if not self._mode.is_file():
            raise UserError(f"{name}: Apertium has no direction {self.direction} here; {mend}")
        self.command = list(arguments) if "-u" in arguments else [arguments[0], "-u", *arguments[1:]]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the mode and every compiled file that it names."""
        mode = self._mode.read_text(encoding="utf-8")
        digest = hashlib.sha256(mode.encode())
        for file in map(Path, re.findall(r"'(/[^']+)'", mode)):
            digest.update(file.read_bytes() if file.is_file() else b"")
        return f"sha256:{digest.hexdigest()}"

    def check_direction(self, source: str, target: str) -> None:
        """Raises `UserError` where it is known that the direction is of other languages."""
        known = DIRECTIONS.get(self.direction or "")
        if known is not None and known != (source, target):
            raise UserError(
                f"{self._name}: translates {known[0]} into {known[1]}, not {source} into {target}; name another direction"
            )

    def joined(self, sentences: Sequence[str]) -> str:
        """What it reads."""
        return "\n\n".join([".", *sentences]) + "\n"

    def split(self, output: str) -> list[str]:
        """What it wrote, by sentence; where it drops a word it leaves two blanks."""
        return [re.sub(" {2,}", " ", text) for text in output.removesuffix("\n").split("\n\n")[1:]]


def _data(arguments: Sequence[str], program: Path) -> Path:
    """Folder of linguistic data, such as /usr/share/apertium."""
    given = "-d" in arguments[:-1]
    return Path(arguments[arguments.index("-d") + 1]) if given else program.resolve().parent.parent / "share/apertium"


def _direction(arguments: Sequence[str]) -> str | None:
    """The first word that is neither an option nor an option's value."""
    words = list(arguments[1:])
    while words and words[0].startswith("-"):
        words = words[2:] if words[0] in _OPTIONS_WITH_VALUE else words[1:]
    return words[0] if words else None
