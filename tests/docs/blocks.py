"""Code blocks of pages, and what a page says of them in a comment before the fence.

    <!-- not run: WHY -->    the block is shown only
    <!-- file: NAME -->      the block is what a user saves under that name

Without a comment a `bash` or `python` block is run. A `text` block shows output or a formula.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]
RUN = ("bash", "python")
SHOWN = ("text",)
_BLOCK = re.compile(
    r"(?:^<!-- (?P<kind>[a-z ]+): (?P<said>.*?) -->\n\n?)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_FENCE = re.compile(r"^```", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    line: int
    language: str
    code: str
    kind: str | None
    """`not run`, `file`, or None: it is run."""
    said: str
    """Why it is not run, or the file's name."""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_accounted_for(self) -> bool:
        """Run, shown with a reason, saved as a file, or output."""
        if self.kind is not None:
            return self.kind in ("not run", "file") and bool(self.said.strip())
        return self.language in (*RUN, *SHOWN)


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page, in order; an unclosed fence is an error."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    found = [
        Block(page, text[: m.start("code")].count("\n"), m["language"], m["code"], m["kind"], m["said"] or "")
        for m in _BLOCK.finditer(text)
    ]
    assert 2 * len(found) == len(_FENCE.findall(text)), f"{page}: a fence is not closed, or stands inside a list"
    return found


def pages() -> list[str]:
    """Every page that a user reads: README, docs/ in the order of the site, then the others."""
    site = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
    ordered = [f"docs/{page}" for page in _leaves(site["nav"])]
    docs = sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "docs").rglob("*.md"))
    others = sorted(str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("benchmarks/*/README.md"))
    # The quick start comes first: what it makes, other pages use.
    first = ["docs/quick_start.md", "README.md", "docs/stage2.md"]
    return list(dict.fromkeys([*first, *ordered, *docs, "CONTRIBUTING.md", "examples/README.md", *others]))


def _leaves(nav: object) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _leaves(part)
