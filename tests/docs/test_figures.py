"""Figures of the pages are those of the committed results, and no result is left out."""

import json
import re

import pytest

from tests.docs.blocks import REPOSITORY, pages
from tests.docs.figures import Figure, figures_of

RESULTS = REPOSITORY / "docs" / "results.md"
FOLDERS = sorted(path.parent for path in (REPOSITORY / "benchmarks" / "results").rglob("summary.json"))


@pytest.fixture
def summary(tmp_path):
    path = tmp_path / "summary.json"
    figures = {"gain/mean": 0.0554, "gain/low": -0.0299, "bytes": 2_892_007_440, "a b/x": 0.25, "c/x": 0.5}
    path.write_text(json.dumps(figures | {"speed": {"commit": "3b5c744278", "date": "2026-11-27T06"}}))
    return path


@pytest.mark.parametrize(
    ("shown", "names"),
    [
        ("+5.5 points (-3.0)", "gain/{mean,low}"),
        (".055", "gain/mean"),
        ("6%", "gain/mean"),
        ("2,892 MB", "bytes"),
        ("2.9 GB", "bytes"),
        (".25", "a%20b/x"),
        (".375", "mean:{a%20b,c}/x"),
        (".38", "mean:*/x"),
        ("3b5c744", "speed/commit"),
        ("2026-11-27, 3b5c744", "speed/{date,commit}"),
    ],
)
def test_a_figure_that_is_there(summary, shown, names):
    assert Figure(shown, summary, names).mistake() is None


@pytest.mark.parametrize(
    ("shown", "names"),
    [
        ("+5.4 points", "gain/mean"),  # another figure
        ("-5.5 points", "gain/mean"),  # another sign
        ("5.5", "gain/mean"),  # another unit
        ("+5.5 points", "gain/{mean,low}"),  # a number too few
        ("+5.5 points", "gain/median"),  # another name
        (".25", "*/x"),  # more than one
        ("3b5c745", "speed/commit"),
        ("3b5c744, 2026-11-27", "speed/{date,commit}"),
    ],
)
def test_a_figure_that_is_not_there(summary, shown, names):
    assert Figure(shown, summary, names).mistake()


@pytest.mark.parametrize("page", pages())
def test_figures_are_those_of_the_committed_results(page):
    mistakes = [figure.mistake() for figure in figures_of(REPOSITORY / page)]
    assert [mistake for mistake in mistakes if mistake] == []


def test_every_committed_result_stands_on_the_page_of_results():
    named = {figure.path.parent for figure in figures_of(RESULTS)}
    assert [str(folder) for folder in FOLDERS if folder not in named] == []


def test_every_claim_has_a_figure_a_command_a_date_and_what_would_overturn_it():
    rows = [
        line.strip(" |").split(" | ") for line in RESULTS.read_text(encoding="utf-8").splitlines() if line[:2] == "| "
    ]
    claims = [row for row in rows if row[0] != "claim"]
    assert len(claims) > 25
    for claim in claims:
        assert len(claim) == 4, claim
        assert all(cell.strip() for cell in claim), claim
        _, figure, made_by, _ = claim
        assert re.search(r"\d|not measured|does not", figure), claim
        assert "](" in figure + made_by, claim
        assert re.search(r"`(make|mtllm-ds|python) ", made_by), claim
        assert "make test" in made_by or re.search(r"2026-\d\d-\d\d, [0-9a-f]{7}", made_by), claim


def test_figures_of_the_readme_stand_on_the_page_of_results():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    figures = set(re.findall(r"(?<![\w.])(?:\.\d+|[+-]\d+\.\d+)", readme))
    assert len(figures) >= 8
    assert {figure for figure in figures if figure not in RESULTS.read_text(encoding="utf-8")} == set()
