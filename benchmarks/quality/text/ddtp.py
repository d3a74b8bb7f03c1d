"""Package descriptions and their translations as a topic task: parsing, near-duplicate groups, splits. Pure functions.

A translation belongs to the English description whose MD5 it names. Sections of the archive give topics. What is test and
validation is pinned by package name in `ddtp_packages.tsv.xz`, so that a newer archive cannot move a test item into training;
everything that is near a test item (its group) stays out of training.
"""

from __future__ import annotations

import hashlib
import lzma
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quality.text.leaks import LeakTest

TOPICS = {
    "admin": "admin embedded kernel otherosfs shells",
    "audio_video": "sound video",
    "desktop": "gnome kde x11 xfce",
    "games": "games",
    "graphics": "graphics",
    "libraries": "introspection libdevel libs oldlibs",
    "network": "comm httpd mail net news web",
    "programming": (
        "cli-mono debug devel gnustep golang haskell interpreters java javascript lisp ocaml perl php python ruby rust vcs zope"
    ),
    "science": "education electronics gnu-r hamradio math science",
    "text": "editors tex text",
}
TOPIC_OF_SECTION = {section: topic for topic, sections in TOPICS.items() for section in sections.split()}
TRANSLATIONS = {
    "ces_Latn": "cs", "dan_Latn": "da", "deu_Latn": "de", "fra_Latn": "fr", "ita_Latn": "it", "jpn_Jpan": "ja", "nld_Latn": "nl",
    "por_Latn": "pt_BR", "rus_Cyrl": "ru", "slk_Latn": "sk", "spa_Latn": "es", "swe_Latn": "sv", "zho_Hans": "zh_CN",
}  # fmt: skip
"""FLORES-200 code -> Debian's code of the translation"""
MAX_BODY = 400
LONG_TITLE, LONG_PARAGRAPH, RARE = 30, 60, 20
"""Characters from which an equal title, or an equal paragraph of at most `RARE` packages, makes two packages related."""
MAX_TRAIN = 800
"""training items a topic"""


@dataclass(frozen=True)
class Package:
    """A package with its English description (title, then the body as the archive writes it)."""

    name: str
    source: str
    topic: str
    md5: str
    description: str


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """Fields of each stanza of a Packages or Translation file; lines of a longer value stay as they are."""
    for block in text.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z0-9_-]+):[ \t]*(.*(?:\n[ \t].*)*)", block, re.M))
        if fields:
            yield fields


def descriptions(text: str) -> dict[str, str]:
    """A Translation file as description MD5 -> description."""
    found = {}
    for fields in stanzas(text):
        value = next((value for name, value in fields.items() if re.fullmatch(r"Description-(?!md5)\w+", name)), None)
        if value and "Description-md5" in fields:
            found[fields["Description-md5"]] = value
    return found


def read_packages(indices: Iterable[str], english: Mapping[str, str]) -> dict[str, Package]:
    """Packages of the topics' sections that have an English description; a later index wins."""
    found = {}
    for index in indices:
        for fields in stanzas(index):
            section = fields.get("Section", "").rsplit("/", 1)[-1]
            md5 = fields.get("Description-md5", "")
            if section in TOPIC_OF_SECTION and "\n" in english.get(md5, ""):
                name = fields["Package"]
                source = fields.get("Source", name).split()[0]
                found[name] = Package(name, source, TOPIC_OF_SECTION[section], md5, english[md5])
    return found


def plain_text(description: str) -> str:
    """Title, newline, body: wrapped lines joined, paragraphs joined by a space, verbatim lines kept apart; cut to `MAX_BODY`."""
    title, _, body = description.partition("\n")
    return f"{title.strip()}\n{' '.join(paragraphs_of(body))[:MAX_BODY]}"


def paragraphs_of(body: str) -> list[str]:
    """Paragraphs of a description's body as the archive writes it: wrapped lines joined, verbatim lines kept apart."""
    found = []
    for paragraph in re.split(r"^ \.$", body, flags=re.M):
        lines = (("\n" if line.startswith("  ") else " ") + line.strip() for line in paragraph.split("\n"))
        found.append("".join(lines).strip())
    return [paragraph for paragraph in found if paragraph]


def related_groups(packages: Iterable[Package]) -> dict[str, str]:
    """Package -> name of its group: joined over source names without digits, equal descriptions, long titles, rare paragraphs."""
    listed = list(packages)
    bodies = {package.name: set(paragraphs_of(package.description.partition("\n")[2])) for package in listed}
    frequency = Counter(paragraph for paragraphs in bodies.values() for paragraph in paragraphs)
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for package in listed:
        title = package.description.partition("\n")[0].strip().lower()
        keys = [f"source {re.sub(r'[0-9]', '', package.source)}", f"description {package.md5}"]
        keys += [f"title {title}"] if len(title) >= LONG_TITLE else []
        keys += [f"paragraph {p}" for p in bodies[package.name] if len(p) >= LONG_PARAGRAPH and frequency[p] <= RARE]
        for key in keys:
            parent[root(f"package {package.name}")] = root(key)
    members = defaultdict(list)
    for package in listed:
        members[root(f"package {package.name}")].append(package.name)
    return {name: digest(min(names), 8) for names in members.values() for name in names}


def read_pinned(path: Path) -> dict[str, set[str]]:
    """Package name -> what it is pinned to: `valid`, or the languages (FLORES-200 codes) whose test it is in.

    Drawn once from Debian 12: at most 100 packages a topic and language.
    """
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        rows = (line.rstrip("\n").split("\t") for line in lines)
        return {name: set(pinned.split(",")) for name, pinned in rows}


@dataclass(frozen=True)
class Splits:
    """What may be trained on, what is for validation, what is tested; each in the order of topics, then at random."""

    free: list[Package]
    """of groups without a pinned package, and without half of the 8-grams of a pinned one"""
    valid: list[Package]
    tested: list[Package]
    groups: Mapping[str, str]
    """package name -> group"""


def split_packages(packages: Mapping[str, Package], pinned: Mapping[str, set[str]]) -> Splits:
    """Splits by group: a group with a test package is test, one with a validation package beside it is nothing else."""
    groups = related_groups(packages.values())
    test_groups = {groups[name] for name, kinds in pinned.items() if name in packages and "valid" not in kinds}
    valid_groups = {groups[name] for name, kinds in pinned.items() if name in packages and "valid" in kinds}
    ordered = sorted(packages.values(), key=lambda package: (package.topic, digest(package.name)))
    # Related by their words alone: boilerplate that holds half of a test item.
    leaks = LeakTest([plain_text(packages[name].description) for name in pinned if name in packages])
    free = [package for package in ordered if groups[package.name] not in test_groups | valid_groups]
    harmless = leaks.leak_free([plain_text(package.description) for package in free])
    return Splits(
        [free[row] for row in harmless],
        [p for p in ordered if "valid" in pinned.get(p.name, ()) and groups[p.name] not in test_groups],
        [p for p in ordered if p.name in pinned and "valid" not in pinned[p.name]],
        groups,
    )


def build(
    splits: Splits, translations: Mapping[str, Mapping[str, str]], pinned: Mapping[str, set[str]]
) -> dict[str, list[dict]]:
    """File name without suffix -> items. `translations[language][md5]` is a description."""

    def item(package: Package) -> dict:
        return {
            "id": digest(package.name),
            "group": splits.groups[package.name],
            "package": package.name,
            "label": package.topic,
            "text": plain_text(package.description),
        }

    files = {
        "train_eng_Latn": _training([item(package) for package in splits.free]),
        "valid_eng_Latn": [item(package) for package in splits.valid],
        "test_eng_Latn": [item(package) for package in splits.tested if "eng_Latn" in pinned[package.name]],
    }
    for language, known in translations.items():
        rows = []
        for package in splits.tested:
            if language in pinned[package.name] and "\n" in known.get(package.md5, ""):
                english = item(package)
                rows.append(english | {"text": plain_text(known[package.md5]), "text_en": english["text"]})
        files[f"test_{language}"] = rows
    return files


def _training(items: list[dict]) -> list[dict]:
    """At most `MAX_TRAIN` items a topic, no text twice."""
    kept: list[dict] = []
    seen: set[str] = set()
    counts: Counter[str] = Counter()
    for row in items:
        if counts[row["label"]] == MAX_TRAIN or row["text"] in seen:
            continue
        seen.add(row["text"])
        counts[row["label"]] += 1
        kept.append(row)
    return kept


def digest(text: str, length: int = 12) -> str:
    """First hex digits of the sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]
