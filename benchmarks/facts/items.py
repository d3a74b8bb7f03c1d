"""Questions of four choices. One choice is right, and no other could be called so."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.facts.countries import Country, countries, shares_word
from benchmarks.facts.templates import KINDS, NOTHING, WORDINGS
from mtllm_ds.languages import ENGLISH

NUM_CHOICES = 4
HALVES = ("choosing", "reporting")
"""Of the countries: kinds and forms are chosen on one, and all that is reported comes from the other."""


_SAME_UNIT = 3
"""First letters that two currencies share which may pass for each other"""


@dataclass(frozen=True)
class Item:
    """One fact; it is asked in any language, and answered in English."""

    kind: str
    country: str
    """ISO 3166"""
    choices: tuple[str, ...]
    """in alphabetical order"""
    answer: int
    names: dict[str, str]
    """language -> the name in its question"""

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.country}"

    def question(self, language: str, *, blind: bool = False) -> str:
        """In a language; blindly with dots for the name."""
        return WORDINGS[language].ask(self.kind, NOTHING if blind else self.names[language])


def make_items(seed: int, half: str, num_per_kind: int | None = None) -> list[Item]:
    """All of a half, or so many of each kind, kind by kind.

    A country is in the same half for every kind. Wrong choices are of the same kind, and of the same continent as far as it has
    three; they are drawn anew for every item.
    """
    known = countries()
    order = random.Random(f"halves/{seed}").sample(known, len(known))
    halves = {country.code: HALVES[place % 2] for place, country in enumerate(order)}
    found = []
    for kind in KINDS:
        asked = (_item(kind, country, known, seed) for country in order if halves[country.code] == half)
        found += [item for item in asked if item is not None][:num_per_kind]
    return found


def _item(kind: str, country: Country, known: Sequence[Country], seed: int) -> Item | None:
    """None where a country has no such fact, or its name tells it."""
    names = country.capitals if kind == "country" else country.names
    answer = _ANSWERS[kind](country)
    if not names or answer is None or any(shares_word(name, answer) for name in names.values()):
        return None
    near = [other for other in known if other.continent == country.continent]
    drawn = random.Random(f"{kind}/{country.code}/{seed}")
    wrong: list[str] = []
    for pool in (near, known):
        said = sorted({text for other in pool if (text := _ANSWERS[kind](other))} - set(wrong))
        fit = [text for text in said if _is_wrong(kind, text, answer, country) and not _leaks(text, names.values())]
        wrong += drawn.sample(fit, min(len(fit), NUM_CHOICES - 1 - len(wrong)))
    choices = tuple(sorted([answer, *wrong]))
    return Item(kind, country.code, choices, choices.index(answer), dict(names))


def _is_wrong(kind: str, text: str, answer: str, country: Country) -> bool:
    if kind == "language":
        return text not in country.spoken
    if kind == "currency":  # Krona, Krone
        return text[:_SAME_UNIT] != answer[:_SAME_UNIT]
    return text != answer


def _leaks(text: str, names: Iterable[str]) -> bool:
    """A wrong choice that looks like the question would be chosen for that."""
    return any(shares_word(text, name) for name in names)


_ANSWERS: dict[str, Callable[[Country], str | None]] = {
    "capital": lambda country: country.capital,
    "country": lambda country: country.names[ENGLISH] if country.capital else None,
    "currency": lambda country: country.currency,
    "continent": lambda country: country.continent if country.lies_clearly else None,
    "language": lambda country: country.language,
}
