"""The report: whole in its folder, the same without any model, and readable by a browser that reaches no network."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from mtllm_ds.evaluation.answers.predictions import concatenate, predictions_of, read_predictions, write_predictions
from mtllm_ds.evaluation.items.items import Item
from mtllm_ds.evaluation.items.tasks import TaskFacts
from mtllm_ds.evaluation.report.parts import Cost, Report, Section, Verdict
from mtllm_ds.evaluation.report.tables import build_tables
from mtllm_ds.evaluation.report.writing import SETTING_TITLES, TITLES, compare_systems, print_tables, write_report
from tests.fixtures.browser import CHROMIUM, FETCHED, probe_page

SKILL = {"llm_direct": 0.3, "ridge": 0.5, "translate_test": 0.55, "mtllm_stage2": 0.65, "english_originals": 0.8}


@pytest.fixture(scope="module")
def predictions():
    rng = np.random.default_rng(0)
    items = [Item(str(n), f"g{n // 3}", "red", ("x",)) for n in range(60)]
    facts = TaskFacts("colours", {"tar_Latn": "spa_Latn"})
    parts = []
    for setting in ("plain", "copy_masked"):
        for language in ("deu_Latn", "jpn_Jpan", "tar_Latn"):
            for system, skill in SKILL.items():
                given = ["red" if rng.random() < skill else "blue" for _ in items]
                parts.append(predictions_of(facts, items, given, language=language, system=system, setting=setting))
    return concatenate(parts)


@pytest.fixture(scope="module")
def report(predictions):
    tables = tuple(build_tables(predictions))
    return Report(
        title="Colours <of> things & more",
        tables=tables,
        comparisons=compare_systems(predictions, tables, "mtllm_stage2", "translate_test"),
        costs={"mtllm_stage2": Cost(0.01), "translate_test": Cost(0.2, chrf=41.5)},
        sections=(Section("Gates <of> it", ("language", "chrF", "why"), [("deu_Latn", "41.0", "counts & so")], "why"),),
        verdict=Verdict("not confirmed", "not confirmed: too small a <difference>"),
        facts={"seeds": "0"},
        notes=("Tried: a < b.",),
    )


@pytest.fixture(scope="module")
def folder(report, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(report, folder)
    return folder


def test_every_file_is_there_and_nothing_else(folder):
    names = {"report.html", "summary.json", "tables.json", "verdict.json", "tables.png", "differences.png"}
    assert {path.name for path in folder.iterdir()} == names
    for name in ("tables.png", "differences.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_summary_holds_verdict_costs_and_differences(folder):
    summary = json.loads((folder / "summary.json").read_text())
    assert json.loads((folder / "verdict.json").read_text())["status"] == "not confirmed"
    assert summary["chrf/translate_test"] == 41.5
    low, high = (summary[f"copy_masked/difference/mtllm_stage2-translate_test/{side}"] for side in ("low", "high"))
    assert low < summary["copy_masked/difference/mtllm_stage2-translate_test/mean"] < high
    assert 0 < summary["plain/difference/mtllm_stage2-translate_test/jpn_Jpan/p_holm"] <= 1


def test_tables_are_the_same_from_the_file_of_predictions(predictions, folder, tmp_path):
    write_predictions(tmp_path / "predictions.parquet", predictions)
    again = read_predictions([tmp_path / "predictions.parquet"])
    tables = tuple(build_tables(again))
    comparisons = compare_systems(again, tables, "mtllm_stage2", "translate_test")
    write_report(Report("again", tables, comparisons), tmp_path / "again")
    assert (tmp_path / "again" / "tables.json").read_text() == (folder / "tables.json").read_text()
    first, second = (json.loads((place / "summary.json").read_text()) for place in (folder, tmp_path / "again"))
    assert second.items() <= first.items()


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.text, self.num_rows = [], [], "", 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        self.num_rows += tag == "tr"

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_from_outside(folder):
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert page.links
    assert all(link.startswith("data:") for link in page.links)
    assert not re.search(r"url\(|@import|https?://", text)
    assert "of" not in page.tags  # what a title says is text, never markup
    assert "difference" not in page.tags
    assert "Colours <of> things & more" in page.text
    assert "not confirmed: too small a <difference>" in page.text
    assert "Gates <of> it" in page.text
    assert "counts & so" in page.text
    assert "tar_Latn*" in page.text


def test_terminal_tables(report):
    console = Console(record=True, width=150)
    print_tables(report, console)
    text = console.export_text()
    assert "tar_Latn*" in text
    assert "mean over 2 languages" in text
    assert "not confirmed: too small a <difference>" in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_many_systems_stay_readable_on_a_narrow_terminal(report, width):
    """Every system has its mean on one line, no figure is broken, and what has no room is said."""
    console = Console(record=True, width=width)
    print_tables(report, console)
    lines = console.export_text().splitlines()
    rows = [line for line in lines if line.startswith("│")]
    assert len(report.tables[0].systems) > 4
    for table in report.tables:
        for system in table.systems:
            expected = "" if np.isnan(table.mean(system)) else f"{table.mean(system):.3f}"
            assert any(TITLES[system][:15] in row and expected in row for row in rows), system
    assert all(re.fullmatch(r"[01]\.\d{3}|", cell.strip()) for row in rows for cell in row.split("│")[2:-1])
    assert ("more languages in report.html" in " ".join(lines)) == (width == 60)


def test_a_report_of_one_system_and_nothing_else(predictions, tmp_path):
    tables = tuple(build_tables(predictions.where(system="ridge", setting="plain", language="tar_Latn")))
    write_report(Report("alone", tables), tmp_path)
    assert "tar_Latn*" in Page((tmp_path / "report.html").read_text()).text
    assert not (tmp_path / "differences.png").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")
def test_chromium_shows_it(folder, tmp_path):
    page = folder / "report.html"
    seen = probe_page(
        page,
        "document.querySelectorAll('th')[1].click();"
        "const column = [...document.querySelector('tbody').rows].map(r => parseFloat(r.cells[1].textContent))",
        "{images: document.images.length, shown: [...document.images].every(i => i.complete && i.naturalWidth > 500),"
        "sorted: column.every((v, i) => i === 0 || column[i - 1] <= v), rows: document.querySelectorAll('tr').length,"
        f"wide: document.documentElement.scrollWidth <= innerWidth, fetched: {FETCHED}}}",
        tmp_path,
    )
    assert seen == {
        "images": 2, "shown": True, "sorted": True, "rows": Page(page.read_text()).num_rows, "wide": True, "fetched": 0,
    }  # fmt: skip


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")
def test_what_chromium_shows_is_what_the_tables_say(folder, tmp_path):
    """Every number that a reader sees, against the accuracies in tables.json."""
    shown = probe_page(
        folder / "report.html",
        "const near = heading => { let e = heading; while (!e.querySelector('table') && e.tagName !== 'TABLE') "
        "e = e.nextElementSibling; return e.tagName === 'TABLE' ? e : e.querySelector('table'); };"
        "const read = table => [...table.rows].map(r => [...r.cells].map(c => c.textContent))",
        "Object.fromEntries([...document.querySelectorAll('h2')].filter(h => h.textContent.endsWith(' text'))"
        ".map(h => [h.textContent, read(near(h))]))",
        tmp_path,
    )
    tables = json.loads((folder / "tables.json").read_text())
    assert list(shown) == [SETTING_TITLES[setting] for setting in tables]
    for setting, table in tables.items():
        heading, *rows, mean = shown[SETTING_TITLES[setting]]
        assert heading == ["language", *(TITLES[name] for name in table["systems"]), "n"]
        expected = [
            [
                code + "*" * (code in table["starred"]),
                *(f"{row[name]['accuracy']:.3f}" for name in table["systems"]),
                "60",
            ]
            for code, row in table["languages"].items()
        ]
        assert rows == expected
        means = [
            np.mean([table["languages"][code][name]["accuracy"] for code in table["mean_languages"]])
            for name in table["systems"]
        ]
        assert mean == ["mean of 2", *(f"{value:.3f}" for value in means), ""]
