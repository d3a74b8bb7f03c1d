"""Every block of the pages is accounted for, every link leads somewhere, and the README stays short."""

import re

import pytest

from tests.docs.blocks import REPOSITORY, blocks_of, pages

_LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


@pytest.mark.parametrize("page", pages())
def test_every_block_is_accounted_for(page):
    assert [block.place for block in blocks_of(page) if not block.is_accounted_for] == []


@pytest.mark.parametrize(
    "page", [*pages(), "CHANGELOG.md", *(f"assets/{name}/README.md" for name in ("llm", "mt", "text"))]
)
def test_links_lead_somewhere(page):
    path = REPOSITORY / page
    dead = []
    for link in _LINK.findall(_without_code(path.read_text(encoding="utf-8"))):
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        if re.match(r"[a-z]+:", link):
            continue
        if not target.exists() or (
            anchor and not page.startswith("docs/reference") and not _has_anchor(target, anchor)
        ):
            dead.append(link)
    assert dead == []


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) < 130


def test_promises_name_tests_that_are_there():
    rows = [
        row
        for row in (REPOSITORY / "docs/promises.md").read_text(encoding="utf-8").splitlines()
        if row.startswith("| ")
    ]
    named = [name for row in rows for name in re.findall(r"`([\w/]+\.py)`", row.split("|")[-2])]
    assert len(named) > 20
    files = [str(path.relative_to(REPOSITORY / "tests")) for path in (REPOSITORY / "tests").rglob("test_*.py")]
    assert [name for name in named if not any(file.endswith(name) for file in files)] == []


def test_troubleshooting_quotes_what_the_code_says():
    """Every quoted message of the first column stands in the code, its gaps (`...`, `KEY`) left out."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "mtllm_ds").rglob("*.py"))
    rows = (REPOSITORY / "docs/troubleshooting.md").read_text(encoding="utf-8").split("|---|---|\n")[1].splitlines()
    quoted = [text for row in rows if row.startswith("|") for text in re.findall("`([^`]*)`", row.split("|")[1])]
    pieces = {piece.strip(" ,;:") for text in quoted for piece in re.split(r"\.\.\.|\b[A-Z]+\b|29500", text)}
    messages = {
        piece for piece in pieces if len(piece.split()) > 2 and not re.match("python |.*not found|Module", piece)
    }
    assert len(messages) > 8
    assert {piece for piece in messages if piece not in code} == set()


def _has_anchor(target, anchor):
    if target.suffix == ".json":
        return True  # tests/docs/test_figures.py looks at the figure itself
    if target.suffix != ".md":
        return False
    headings = _HEADING.findall(_without_code(target.read_text(encoding="utf-8")))
    return anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def _without_code(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
