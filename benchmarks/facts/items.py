"""Questions of four choices. One choice is right, and no other could be called so."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from benchmarks.facts.countries import Country, countries, is_same_name, tells
from benchmarks.facts.templates import KINDS, NOTHING, WORDINGS
from mtllm_ds.languages import ENGLISH

NUM_CHOICES = 4
HALVES = ("choosing", "reporting")
"""Of the countries: kinds and forms are chosen on one, and all that is reported comes from the other."""
ABOUT = ("itself", "nothing", "another")
"""What the question of an item may be about: its country; dots in place of the name; another country, of which no choice is true"""

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
    others: dict[str, str]
    """language -> the name of another country, of which no choice is true"""

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.country}"

    def question(self, language: str, about: str = "itself") -> str:
        """In a language; `about` is one of `ABOUT`."""
        name = {"itself": self.names[language], "nothing": NOTHING, "another": self.others[language]}[about]
        return WORDINGS[language].ask(self.kind, name)

    def has_own_name(self, language: str) -> bool:
        """Whether its question has another name than in English: otherwise much of it is asked in English."""
        return not is_same_name(self.names[language], self.names[ENGLISH])


def make_items(seed: int, half: str, num_per_kind: int | None = None) -> list[Item]:
    """All of a half, or so many of each kind, kind by kind.

    A country is in the same half for every kind, and each half has about as many of every kind. Wrong choices are of the same kind,
    and of the same continent as far as it has three; they are drawn anew for every item. The other country is of the same half.
    """
    known = countries()
    order = random.Random(f"halves/{seed}").sample(known, len(known))
    alike = sorted(order, key=lambda country: [_is_asked(kind, country) for kind in KINDS])
    halves = {country.code: HALVES[place % 2] for place, country in enumerate(alike)}
    found = []
    for kind in KINDS:
        own = [country for country in order if halves[country.code] == half]
        asked = [country for country in own if _is_asked(kind, country)][:num_per_kind]
        found += [_item(kind, country, known, own, seed) for country in asked]
    return found


def digest(seed: int) -> str:
    """Of every question, choice and label: a run goes on with the same ones."""
    items = [asdict(item) for half in HALVES for item in make_items(seed, half)]
    told = [items, {code: asdict(wording) for code, wording in WORDINGS.items()}]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _item(kind: str, country: Country, known: Sequence[Country], half: Sequence[Country], seed: int) -> Item:
    names, answer = _names(kind, country), _ANSWERS[kind](country)
    assert answer is not None
    near = [other for other in known if other.continent == country.continent]
    drawn = random.Random(f"{kind}/{country.code}/{seed}")
    wrong: list[str] = []
    for pool in (near, known):
        if len(wrong) == NUM_CHOICES - 1:
            break
        said = sorted({text for other in pool if (text := _ANSWERS[kind](other))} - set(wrong))
        fit = [text for text in said if _is_wrong(kind, text, answer, country) and not tells(names.values(), text)]
        wrong += drawn.sample(fit, min(len(fit), NUM_CHOICES - 1 - len(wrong)))
    choices = tuple(sorted([answer, *wrong]))
    drawn = random.Random(f"another/{kind}/{country.code}/{seed}")
    other = next(other for other in drawn.sample(half, len(half)) if _is_another(kind, other, choices))
    return Item(kind, country.code, choices, choices.index(answer), dict(names), dict(_names(kind, other)))


def _is_asked(kind: str, country: Country) -> bool:
    """Not where there is no such fact, or the name tells it."""
    names, answer = _names(kind, country), _ANSWERS[kind](country)
    return bool(names) and answer is not None and not tells(names.values(), answer)


def _names(kind: str, country: Country) -> Mapping[str, str]:
    return country.capitals if kind == "country" else country.names


def _is_another(kind: str, other: Country, choices: Sequence[str]) -> bool:
    """Whether no choice is true of it, or looks like its name: what is then said of it is said of any country."""
    names, answer = _names(kind, other), _ANSWERS[kind](other)
    if not names or answer is None or (kind == "language" and not other.spoken.isdisjoint(choices)):
        return False
    return answer not in choices and not any(tells(names.values(), text) for text in choices)


def _is_wrong(kind: str, text: str, answer: str, country: Country) -> bool:
    if kind == "language":
        return text not in country.spoken
    if kind == "currency":  # Krona, Krone; Rial, Riyal
        first, second = (unit.replace("Riyal", "Rial")[:_SAME_UNIT] for unit in (text, answer))
        return first != second
    return text != answer


_ANSWERS: dict[str, Callable[[Country], str | None]] = {
    "capital": lambda country: country.capital,
    "country": lambda country: country.names[ENGLISH] if country.capital else None,
    "currency": lambda country: country.currency,
    "continent": lambda country: country.continent if country.lies_clearly else None,
    "language": lambda country: country.language,
}
