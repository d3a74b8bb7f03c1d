"""Figures that pages take from committed results: a link whose text is the figure and whose `#` is its name in that file.

    [+5.5 points (+3.0 to +8.0)](../benchmarks/results/NAME/summary.json#copy_masked/difference/{mean,low,high})

Braces are a shell's: as many names as the text has numbers, in their order. A `*` stands for any part of a name, and
`mean:` before the names takes the mean of all they match. Where the text says `%` or `points` it shows a hundred times
the figure, where it says `MB` or `GB` bytes. A name whose value is a text (a verdict, a commit, a date) must hold what is
shown; several are shown with commas between.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

_LINK = re.compile(r"\[(?P<shown>[^\]]+)\]\((?P<file>[^)\s#]+\.json)#(?P<names>[^)\s]+)\)")
_NUMBER = re.compile(r"(?<![\w.])[+-]?(?:\d{1,3}(?:,\d{3})+|\d*\.\d+|\d+)(?!\w)")
_SCALES = {"%": 100.0, "points": 100.0, "MB": 1e-6, "GB": 1e-9}
_MEAN = "mean:"


@dataclass(frozen=True)
class Figure:
    """One link to committed figures."""

    shown: str
    path: Path
    names: str

    def mistake(self) -> str | None:
        """What is wrong with it, or None."""
        values = self._values()
        if isinstance(values, str):
            return values
        if any(isinstance(value, str) for value in values):
            return self._mistake_of_texts([str(value) for value in values])
        return self._mistake_of_numbers([float(value) for value in values])

    def _values(self) -> list[str | float] | str:
        try:
            known = dict(_leaves(json.loads(self.path.read_text(encoding="utf-8"))))
        except OSError:
            return f"{self.path}: no such file"
        patterns = _expanded(unquote(self.names).removeprefix(_MEAN))
        found = [[value for name, value in known.items() if fnmatchcase(name, pattern)] for pattern in patterns]
        if self.names.startswith(_MEAN):
            together = [float(value) for values in found for value in values]
            return [sum(together) / len(together)] if all(found) else f"{self.names}: not in {self.path}"
        if any(len(values) != 1 for values in found):
            return f"{self.names}: not in {self.path}, or more than one"
        return [values[0] for values in found]

    def _mistake_of_texts(self, values: list[str]) -> str | None:
        shown = self.shown.split(", ") if len(values) > 1 else [self.shown]
        fits = len(shown) == len(values) and all(part in value for part, value in zip(shown, values, strict=True))
        return None if fits else f"{self.shown}: {self.names} is {', '.join(values)}"

    def _mistake_of_numbers(self, values: list[float]) -> str | None:
        scale = next((scale for unit, scale in _SCALES.items() if unit in self.shown), 1.0)
        numbers = _NUMBER.findall(self.shown)
        fits = len(numbers) == len(values) and all(
            abs(float(number.replace(",", "")) - scale * value) <= _half_a_digit(number) * (1 + 1e-6)
            for number, value in zip(numbers, values, strict=True)
        )
        return (
            None if fits else f"{self.shown}: {self.names} is {', '.join(f'{scale * value:.6g}' for value in values)}"
        )


def figures_of(page: Path) -> list[Figure]:
    """Every figure that a page links to, in order."""
    text = page.read_text(encoding="utf-8")
    return [Figure(m["shown"], (page.parent / m["file"]).resolve(), m["names"]) for m in _LINK.finditer(text)]


def _half_a_digit(number: str) -> float:
    return 0.5 * 10.0 ** -len(number.partition(".")[2])


def _leaves(tree: dict, above: str = "") -> Iterator[tuple[str, str | float]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{name}/")
        elif isinstance(value, str | int | float):
            yield f"{above}{name}", value


def _expanded(pattern: str) -> list[str]:
    head, brace, rest = pattern.partition("{")
    if not brace:
        return [pattern]
    choices, _, tail = rest.partition("}")
    return [head + choice + end for choice in choices.split(",") for end in _expanded(tail)]
