"""Read the LibreOffice help text (MPL-2.0) from a folder, and keep what is tested out of what is trained on.

The folder holds `parallel_LANG.tsv.xz` (English TAB translation), `{train,valid,test}_eng_Latn.jsonl`, `test_LANG.jsonl` and
`documents_eng_Latn.jsonl.xz`; `fetch_help_text.py` makes such a folder from Debian's packages.
"""

import hashlib
import json
import lzma
import re
from dataclasses import dataclass
from pathlib import Path

from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.leaks import LeakTest

ENGLISH = "eng_Latn"
LANGUAGES = ("deu_Latn", "fra_Latn", "jpn_Jpan", "rus_Cyrl", "khm_Khmr", "gaz_Latn")


def fingerprint(segment: str) -> str:
    """First 24 hex digits of the sha256 of `segment`, lower-cased, runs of non-word characters folded to one space."""
    folded = re.sub(r"\W+", " ", segment.lower()).strip()
    return hashlib.sha256(folded.encode()).hexdigest()[:24]


def open_text(path: Path):
    """Open a plain or xz-compressed text file for reading; a missing one is a UserError that says what makes it."""
    if not path.exists():
        raise UserError(
            f"no help text, {path} does not exist, make it with `python -m benchmarks.quality.fetch_help_text`"
        )
    return lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8")


def read_jsonl(path: Path) -> list[dict]:
    with open_text(path) as lines:
        return [json.loads(line) for line in lines]


@dataclass
class HelpText:
    """English segments and their translations; `translations[i]` maps a language to the translation of `english[i]`."""

    english: list[str]
    translations: list[dict[str, str]]

    def subset(self, keep) -> "HelpText":
        rows = [i for i, text in enumerate(self.english) if keep(text)]
        return HelpText([self.english[i] for i in rows], [self.translations[i] for i in rows])


def read_parallel(folder: Path, languages: tuple[str, ...] = LANGUAGES) -> HelpText:
    """All pairs, joined on the English side, without what gives away a test item on either side (see `LeakTest`)."""
    joined: dict[str, dict[str, str]] = {}
    for language in languages:
        pairs = []
        with open_text(folder / f"parallel_{language}.tsv.xz") as lines:
            for line in lines:
                english, translation = line.rstrip("\n").split("\t")
                pairs.append((english, translation))
        harmless = leak_test(folder, language).leak_free([translation for _, translation in pairs])
        for english, translation in (pairs[row] for row in harmless):
            joined.setdefault(english, {})[language] = translation
    forbidden = forbidden_fingerprints(folder)
    segments = list(joined)
    kept = [segments[row] for row in leak_test(folder, ENGLISH).leak_free(segments)]
    kept = [english for english in kept if fingerprint(english) not in forbidden]
    return HelpText(kept, [joined[english] for english in kept])


def leak_test(folder: Path, language: str) -> LeakTest:
    """The leak test of one language's test items."""
    return LeakTest([item["text"] for item in read_jsonl(folder / f"test_{language}.jsonl")])


def forbidden_fingerprints(folder: Path) -> set[str]:
    """Test items, and what `exclude.sha256.xz` lists in or beside the folder (short phrases of test pages recur elsewhere)."""
    forbidden = {fingerprint(item["text"]) for item in read_jsonl(folder / f"test_{ENGLISH}.jsonl")}
    for listed in (folder / "exclude.sha256.xz", folder.parent / "exclude.sha256.xz"):
        if listed.exists():
            with open_text(listed) as lines:
                forbidden.update(line.strip() for line in lines)
    return forbidden


def split_valid(folder: Path, text: HelpText) -> tuple[HelpText, HelpText]:
    """(training part, validation part): segments that are English validation items are held out in every language."""
    held_out = {item["text"] for item in read_jsonl(folder / f"valid_{ENGLISH}.jsonl")}
    return text.subset(lambda s: s not in held_out), text.subset(lambda s: s in held_out)


def read_documents(folder: Path) -> tuple[list[dict], list[dict]]:
    """English pages ({page, paragraphs: [{kind, text}]}): (training, validation); pages of validation items are validation."""
    forbidden = forbidden_fingerprints(folder)
    held_out = {item["page"] for item in read_jsonl(folder / f"valid_{ENGLISH}.jsonl")}
    pages = read_jsonl(folder / f"documents_{ENGLISH}.jsonl.xz")
    test = leak_test(folder, ENGLISH)
    for page in pages:
        harmless = test.leak_free([p["text"] for p in page["paragraphs"]])
        listed = [page["paragraphs"][row] for row in harmless]
        page["paragraphs"] = [p for p in listed if fingerprint(p["text"]) not in forbidden]
    return [p for p in pages if p["page"] not in held_out], [p for p in pages if p["page"] in held_out]
