"""Rebuild the help text from Debian's packages `libreoffice-help-LANG`, with apt-get, without touching the system's state.

    python -m benchmarks.quality.text.fetch_help_text --out FOLDER [--languages deu_Latn fra_Latn ...]

Downloads go through apt-get with private lists and cache under FOLDER/apt; what is already there with the right checksum is
not fetched again. `packages.json` records versions and sha256. Which pages are test and validation, and the labelled items,
come from the text sample `assets/text/`, so that a newer package cannot move a test item into training.
"""

import argparse
import json
import lzma
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

from benchmarks.quality.text.apt import Apt
from benchmarks.quality.text.folder_text import LANGUAGES, fingerprint, read_jsonl
from mtllm_ds.atomic import write_bytes, write_json, write_text
from mtllm_ds.command_line import Parser, run_and_exit
from mtllm_ds.languages import ENGLISH

PACKAGES = {
    ENGLISH: "en-us", "deu_Latn": "de", "fra_Latn": "fr", "jpn_Jpan": "ja", "rus_Cyrl": "ru", "khm_Khmr": "km", "gaz_Latn": "om",
    "spa_Latn": "es", "tur_Latn": "tr", "vie_Latn": "vi", "zho_Hans": "zh-cn", "eus_Latn": "eu", "cat_Latn": "ca", "dzo_Tibt": "dz",
}  # fmt: skip
MAX_CHARACTERS = 600
MIN_WORDS = 3
SAMPLE = Path("assets/text")


class Segments(HTMLParser):
    """Collects the elements p and h1-h6 with ids `par_*` and `hd_*` of a help page: [(id, occurrence), kind, text]."""

    def __init__(self):
        super().__init__()
        self.found: list[tuple[tuple[str, int], str, str]] = []
        self.open: tuple[str, str] | None = None
        self.pieces: list[str] = []
        self.seen: dict[str, int] = {}

    def handle_starttag(self, tag, attrs):
        identity = dict(attrs).get("id") or ""
        if (tag == "p" or re.fullmatch("h[1-6]", tag)) and identity.startswith(("par_", "hd_")):
            self._close()
            self.open = (tag, identity)

    def handle_endtag(self, tag):
        if self.open and tag == self.open[0]:
            self._close()

    def handle_data(self, data):
        if self.open:
            self.pieces.append(data)

    def _close(self):
        text = " ".join(" ".join(self.pieces).split())
        if self.open and text:
            tag, identity = self.open
            occurrence = self.seen.get(identity, 0)
            self.seen[identity] = occurrence + 1
            self.found.append(((identity, occurrence), "p" if tag == "p" else "h", text))
        self.open, self.pieces = None, []


def read_pages(deb: Path, work: Path, name: str) -> dict[str, list]:
    """Pages of a help package: path under `text/` -> segments. `name` is the language as the package is named after it: that of
    Catalan holds Valencian too."""
    shutil.rmtree(work, ignore_errors=True)
    subprocess.run(["dpkg-deb", "-x", str(deb), str(work)], check=True)
    (root,) = (path for path in work.glob("usr/share/libreoffice/help/*/text") if path.parent.name.lower() == name)
    pages = {}
    for path in sorted(root.rglob("*.html")):
        parser = Segments()
        parser.feed(path.read_text(encoding="utf-8"))
        pages[str(path.relative_to(root))] = parser.found
    shutil.rmtree(work)
    return pages


def pairs(english: dict[str, list], foreign: dict[str, list]) -> dict[str, str]:
    """English segment -> its first real translation, paired by (page, id, occurrence)."""
    found: dict[str, str] = {}
    for page, segments in english.items():
        translated = {key: text for key, _, text in foreign.get(page, [])}
        for key, _, text in segments:
            translation = translated.get(key, text)
            fits = len(text.split()) >= MIN_WORDS and max(len(text), len(translation)) < MAX_CHARACTERS
            if translation != text and fits:
                found.setdefault(text, translation)
    return found


def write_xz(path: Path, text: str) -> None:
    write_bytes(path, lzma.compress(text.encode()))


def write_items(out: Path, languages: list[str], translations: dict[str, dict[str, str]]) -> None:
    """Labelled items of the sample; in a language, those whose English text it translates."""
    for split in ("train", "valid", "test"):
        items = read_jsonl(SAMPLE / f"topics_{split}_{ENGLISH}.jsonl.xz")
        write_text(
            out / f"{split}_{ENGLISH}.jsonl", "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        )
    for code in languages:
        known = translations[code]
        rows = [i | {"text": known[i["text"]], "text_en": i["text"]} for i in items if i["text"] in known]
        write_text(out / f"test_{code}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--languages", nargs="+", default=list(LANGUAGES), choices=[c for c in PACKAGES if c != ENGLISH]
    )
    args = parser.parse_args()
    apt = Apt(args.out.resolve() / "apt")
    apt.run("apt-get", "update")
    recorded, pages = {}, {}
    for code in [ENGLISH, *args.languages]:
        deb, recorded[code] = apt.package(f"libreoffice-help-{PACKAGES[code]}")
        pages[code] = read_pages(deb, args.out / "apt" / "unpacked", PACKAGES[code])
        print(f"{code}: {len(pages[code])} pages, {recorded[code]['version']}", flush=True)
    write_json(args.out / "packages.json", recorded)

    test_pages = set(json.loads(Path(__file__).with_name("help_test_pages.json").read_text()))
    test_segments = {fingerprint(text) for page in test_pages for _, _, text in pages[ENGLISH].get(page, [])}
    open_pages = {page: found for page, found in pages[ENGLISH].items() if page not in test_pages}
    translations = {code: pairs(pages[ENGLISH], pages[code]) for code in args.languages}
    for code in args.languages:
        kept = pairs(open_pages, pages[code]).items()
        lines = (f"{english}\t{foreign}\n" for english, foreign in kept if fingerprint(english) not in test_segments)
        write_xz(args.out / f"parallel_{code}.tsv.xz", "".join(lines))
    rows = []
    for page, found in open_pages.items():
        paragraphs = [{"kind": k, "text": t} for _, k, t in found if fingerprint(t) not in test_segments]
        rows.append(json.dumps({"page": page, "paragraphs": paragraphs}, ensure_ascii=False) + "\n")
    write_xz(args.out / f"documents_{ENGLISH}.jsonl.xz", "".join(rows))
    write_items(args.out, args.languages, translations)
    return 0


if __name__ == "__main__":
    run_and_exit(main)
