"""Read the text around a task from a folder, and keep what is tested out of what is trained on.

The folder holds `parallel_LANG.tsv.xz` (English TAB translation), `{train,valid,test}_eng_Latn.jsonl`, `test_LANG.jsonl`,
`documents_eng_Latn.jsonl.xz` and, where validation items are no segments of the parallel text, `valid_LANG.jsonl`.
`fetch_help_text.py` makes such a folder of LibreOffice's help (MPL-2.0), `fetch_ddtp.py` of package descriptions.
"""

import hashlib
import json
import lzma
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quality.text.leaks import LeakTest, folded
from mtllm_ds.errors import UserError
from mtllm_ds.languages import ENGLISH

LANGUAGES = ("deu_Latn", "fra_Latn", "jpn_Jpan", "rus_Cyrl", "khm_Khmr", "gaz_Latn")


def fingerprint(segment: str) -> str:
    """First 24 hex digits of the sha256 of `segment`, lower-cased, runs of non-word characters folded to one space."""
    return hashlib.sha256(folded(segment).encode()).hexdigest()[:24]


def open_text(path: Path):
    """Open a plain or xz-compressed text file for reading; a missing one is a UserError that says what makes it."""
    if not path.exists():
        raise UserError(f"{path}: no text there; make it with `make help-text` or `make ddtp`")
    return lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8")


def read_jsonl(path: Path) -> list[dict]:
    with open_text(path) as lines:
        return [json.loads(line) for line in lines]


@dataclass
class ParallelText:
    """English segments and their translations; `translations[i]` maps a language to the translation of `english[i]`."""

    english: list[str]
    translations: list[dict[str, str]]

    def subset(self, keep) -> "ParallelText":
        rows = [i for i, text in enumerate(self.english) if keep(text)]
        return ParallelText([self.english[i] for i in rows], [self.translations[i] for i in rows])


def read_parallel(folder: Path, languages: tuple[str, ...] = LANGUAGES) -> ParallelText:
    """All pairs, joined on the English side, without what gives away a test item on either side (see `LeakTest`)."""
    harmless: dict[str, list[tuple[str, str]]] = {}
    for language in languages:
        with open_text(folder / f"parallel_{language}.tsv.xz") as lines:
            pairs = [(english, other) for english, other in (line.rstrip("\n").split("\t") for line in lines)]
        rows = leak_test(folder, language).leak_free([translation for _, translation in pairs])
        harmless[language] = [pairs[row] for row in rows]
    text = joined(harmless)
    forbidden = forbidden_fingerprints(folder)
    free = {text.english[row] for row in leak_test(folder, ENGLISH).leak_free(text.english)}
    return text.subset(lambda english: english in free and fingerprint(english) not in forbidden)


def leak_test(folder: Path, language: str) -> LeakTest:
    """The leak test of one language's test items; English ones are also the originals of every other language's."""
    texts = [item["text"] for item in read_jsonl(folder / f"test_{language}.jsonl")]
    if language == ENGLISH:
        others = (item for path in sorted(folder.glob("test_*.jsonl")) for item in read_jsonl(path))
        texts += [item["text_en"] for item in others if "text_en" in item]
    return LeakTest(list(dict.fromkeys(texts)))


def forbidden_fingerprints(folder: Path) -> set[str]:
    """Test items, and what `exclude.sha256.xz` lists in or beside the folder (short phrases of test pages recur elsewhere)."""
    forbidden = {fingerprint(item["text"]) for item in read_jsonl(folder / f"test_{ENGLISH}.jsonl")}
    for listed in (folder / "exclude.sha256.xz", folder.parent / "exclude.sha256.xz"):
        if listed.exists():
            with open_text(listed) as lines:
                forbidden.update(line.strip() for line in lines)
    return forbidden


def split_valid(folder: Path, text: ParallelText) -> tuple[ParallelText, ParallelText]:
    """(training part, validation part): segments that are English validation items are held out in every language.

    Where the folder has pairs of validation items of its own, `valid_LANG.jsonl`, they are the validation part.
    """
    held_out = {item["text"] for item in read_jsonl(folder / f"valid_{ENGLISH}.jsonl")}
    train, valid = text.subset(lambda s: s not in held_out), text.subset(lambda s: s in held_out)
    languages = {language for found in text.translations for language in found}
    own = {code: path for code in sorted(languages) if (path := folder / f"valid_{code}.jsonl").exists()}
    if not own:
        return train, valid
    return train, joined({code: _valid_pairs(folder, code, path) for code, path in own.items()})


def _valid_pairs(folder: Path, language: str, path: Path) -> list[tuple[str, str]]:
    """Validation pairs that give no test item away."""
    pairs = [(row["text_en"], row["text"]) for row in read_jsonl(path)]
    for side, code in enumerate((ENGLISH, language)):
        pairs = [pairs[row] for row in leak_test(folder, code).leak_free([pair[side] for pair in pairs])]
    return pairs


def joined(pairs: dict[str, list[tuple[str, str]]]) -> ParallelText:
    """Pairs (English, translation) of several languages, joined on the English side."""
    found: dict[str, dict[str, str]] = {}
    for language, listed in pairs.items():
        for english, translation in listed:
            found.setdefault(english, {})[language] = translation
    return ParallelText(list(found), list(found.values()))


def read_documents(folder: Path) -> tuple[list[dict], list[dict]]:
    """English pages ({page, paragraphs: [{kind, text}]}): (training, validation); pages of validation items are validation."""
    forbidden = forbidden_fingerprints(folder)
    # A document of the help is a page; of package descriptions, a group of related packages.
    held_out = {item.get("page", item["group"]) for item in read_jsonl(folder / f"valid_{ENGLISH}.jsonl")}
    pages = read_jsonl(folder / f"documents_{ENGLISH}.jsonl.xz")
    test = leak_test(folder, ENGLISH)
    for page in pages:
        harmless = test.leak_free([p["text"] for p in page["paragraphs"]])
        listed = [page["paragraphs"][row] for row in harmless]
        page["paragraphs"] = [p for p in listed if fingerprint(p["text"]) not in forbidden]
    return [p for p in pages if p["page"] not in held_out], [p for p in pages if p["page"] in held_out]
