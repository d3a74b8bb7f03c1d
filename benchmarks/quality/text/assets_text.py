"""The text sample that ships in `assets/text/`: English for stage 1, labelled items, and a little parallel text."""

import json
import lzma
import random
from pathlib import Path

from benchmarks.quality.text.folder_text import (
    LANGUAGES,
    fingerprint,
    forbidden_fingerprints,
    read_documents,
    read_jsonl,
    read_parallel,
    split_valid,
)
from mtllm_ds.languages import ENGLISH

LABELLED_FIELDS = ("id", "group", "page", "label", "text", "text_en")
MIN_CHARACTERS = 20


def write_jsonl(path: Path, rows: list[dict]) -> int:
    """Write rows as JSON lines, xz-compressed, the same bytes on each run; returns the size in bytes."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(lzma.compress(lines.encode(), preset=9 | lzma.PRESET_EXTREME))
    return path.stat().st_size


def paragraphs(pages: list[dict]) -> list[dict]:
    """Each different paragraph once ({page, text}), headings and scraps left out."""
    seen: dict[str, dict] = {}
    for page in pages:
        for paragraph in page["paragraphs"]:
            text = paragraph["text"]
            if paragraph["kind"] == "p" and len(text) >= MIN_CHARACTERS:
                seen.setdefault(text, {"page": page["page"], "text": text})
    return list(seen.values())


def write_text(data: Path, folder: Path, num_parallel: int = 300) -> dict[str, int]:
    """Write the sample into `folder`; returns rows a file. Parallel pairs are validation segments, then training ones."""
    folder.mkdir(parents=True, exist_ok=True)
    train_pages, valid_pages = read_documents(data)
    rows = {
        f"stage1_train_{ENGLISH}": paragraphs(train_pages),
        f"stage1_valid_{ENGLISH}": paragraphs(valid_pages),
    }
    in_train = {row["text"] for row in rows[f"stage1_train_{ENGLISH}"]}
    rows[f"stage1_valid_{ENGLISH}"] = [r for r in rows[f"stage1_valid_{ENGLISH}"] if r["text"] not in in_train]
    names = [f"{split}_{ENGLISH}" for split in ("train", "valid", "test")] + [f"test_{code}" for code in LANGUAGES]
    for name in names:
        items = read_jsonl(data / f"{name}.jsonl")
        rows[f"topics_{name}"] = [{k: item[k] for k in LABELLED_FIELDS if k in item} for item in items]
    train, valid = split_valid(data, read_parallel(data))
    for code in LANGUAGES:
        pairs = [
            (e, t[code])
            for part in (valid, train)
            for e, t in zip(part.english, part.translations, strict=True)
            if code in t
        ]
        num_valid = sum(code in t for t in valid.translations)
        more = random.Random(0).sample(pairs[num_valid:], max(0, num_parallel - num_valid))
        chosen = (pairs[:num_valid] + more)[:num_parallel]
        rows[f"parallel_{code}"] = [{"text_en": english, "text": text} for english, text in chosen]
    forbidden = forbidden_fingerprints(data)
    leaks = [r for name in rows if name.startswith("stage1") for r in rows[name] if fingerprint(r["text"]) in forbidden]
    assert not leaks, leaks[:3]
    for name, found in rows.items():
        write_jsonl(folder / f"{name}.jsonl.xz", found)
    return {name: len(found) for name, found in rows.items()}
