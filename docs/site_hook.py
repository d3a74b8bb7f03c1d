"""Lets pages link to files of the repository outside `docs/` (`../benchmarks/...`), as they must to be read on a code host too.

Such files become part of the site below `repository/`, and the links lead there; a link to a file that is not there stays as it is,
and `mkdocs build --strict` fails on it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_LINK = re.compile(r"(?<=\]\()([^)\s#]+)(?=[)#])")
_PLACE = "repository"


def on_files(files: Files, config: Any) -> Files:
    """Add every file outside `docs/` that a page links to, and what those link to."""
    docs = Path(config.docs_dir)
    waiting = [Path(str(file.abs_src_path)) for file in files.documentation_pages()]
    while waiting:
        page = waiting.pop()
        for target in _outside(page, docs):
            place = f"{_PLACE}/{target.relative_to(docs.parent)}"
            if target.is_file() and files.get_file_from_path(place) is None:
                files.append(File.generated(config, place, abs_src_path=str(target)))
                waiting += [target] if target.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links at where such files lie in the site."""
    docs, source = Path(config.docs_dir), Path(page.file.abs_src_path)
    up = "../" * page.file.src_uri.count("/")

    def moved(match: re.Match[str]) -> str:
        target = _target(source, match[1])
        if target is None or not target.is_file():
            return match[1]
        if target.is_relative_to(docs):
            return f"{up}{target.relative_to(docs)}"
        return f"{up}{_PLACE}/{target.relative_to(docs.parent)}"

    return _LINK.sub(moved, markdown)


def _outside(page: Path, docs: Path) -> list[Path]:
    found = (_target(page, link) for link in _LINK.findall(page.read_text(encoding="utf-8")))
    return [t for t in found if t is not None and t.is_relative_to(docs.parent) and not t.is_relative_to(docs)]


def _target(page: Path, link: str) -> Path | None:
    return None if ":" in link else (page.parent / link).resolve()
