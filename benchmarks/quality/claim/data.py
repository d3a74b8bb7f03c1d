"""First step of the quality benchmark: leak-free text and the task, from a folder as it is, checked against its manifest.

Writes below --output: `stage1_{train,valid}.jsonl`, `task/` with `task.yaml`, `valid_CODE.jsonl` (pairs held out of the MT
model), `monolingual_CODE.jsonl` (training text of each language, its pairing forgotten), with --parallel-texts
`parallel_CODE.jsonl` (translations with their English originals, and as much English text), and `data.json` with what was found.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import yaml

from benchmarks.quality.text.assets_text import paragraphs
from benchmarks.quality.text.folder_text import (
    ParallelText,
    leak_test,
    read_documents,
    read_jsonl,
    read_parallel,
    split_valid,
)
from benchmarks.quality.text.frozen import MANIFESTS, changed_files, files_of, manifest_of
from benchmarks.quality.text.leaks import LeakTest
from mtllm_ds.atomic import write_json, write_text
from mtllm_ds.command_line import Parser, positive_int, run_and_exit
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.languages import ENGLISH

TASKS = Path("launchers/tasks")
MONOLINGUAL = 3000
"""Training texts a language that means are taken over."""
PARALLEL_CHARACTERS = range(40, 301)
"""Lengths of both sides of parallel text: shorter ones are labels and titles, longer ones are cut by tokenizers, each elsewhere."""


def write_rows(path: Path, rows: list[dict]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def drawn(rows: list[dict], limit: int | None) -> list[dict]:
    """`limit` rows at random, the same each time, in their order."""
    if limit is None or limit >= len(rows):
        return rows
    return [rows[i] for i in sorted(random.Random(0).sample(range(len(rows)), limit))]


def known_languages(mt: str, listed: list[str]) -> list[str]:
    """The task's languages that the MT model has a tag for, without English; all of them for an encoder without tags."""
    tagged = load_text_tokenizer(TokenizerSpec(name=mt, side="encoder")).language_codes
    return [code for code in listed if code != ENGLISH and (code in tagged or not tagged)]


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of the text (make help-text, make ddtp)")
    add("--task", choices=list(MANIFESTS), default="lohelp_modules")
    add("--mt", required=True, help="MT model: its tags decide the languages")
    add("--languages", nargs="+", metavar="CODE", help="foreign ones (default: those of the task)")
    add("--more-text", type=Path, metavar="FOLDER", help="another task's folder: its English is text of stage 1 too")
    add("--output", type=Path, required=True)
    add("--train-items", type=positive_int)
    add("--valid-items", type=positive_int, help="English validation items, and validation texts of stage 1")
    add("--test-items", type=positive_int)
    add("--stage1-texts", type=positive_int)
    add("--valid-pairs", type=positive_int)
    add("--fill-valid-pairs", action="store_true", help="from parallel text, on which nothing may then train")
    add("--parallel-texts", type=positive_int, help="translations a language for a stage 1 on parallel text")
    add("--manifest", type=Path, help="of the frozen files (default: the task's)")
    add("--any-data", action="store_true", help="go on where files are not the frozen ones")
    options = parser.parse_args()
    task = yaml.safe_load((TASKS / f"{options.task}.yaml").read_text(encoding="utf-8"))
    languages = known_languages(options.mt, options.languages or task["languages"])
    changed = changed_files(options.data, languages, options.manifest or manifest_of(options.task))
    if changed and not options.any_data:
        raise UserError(
            f"{options.data / changed[0]}: not the file that the benchmark was set up with (Debian 12, November 2026); allow "
            "others by --any-data (make: QUALITY_MORE=--any-data)"
        )
    found: dict[str, Any] = {
        "languages": languages,
        "changed_files": changed,
        "files": files_of(options.data, languages),
    }
    found["counts"] = write_texts(options, languages) | write_items(options, languages)
    found["counts_by_language"] = {code: found["counts"][f"test items {code}"] for code in languages}
    write_task(options.output / "task", task, languages)
    require_no_leak(options.output, options.data)
    write_json(options.output / "data.json", found)
    return 0


def write_texts(options: argparse.Namespace, languages: list[str]) -> dict[str, int]:
    """Stage-1 text, validation pairs, and monolingual text; rows a file."""
    train, valid = (paragraphs(pages) for pages in read_documents(options.data))
    if options.more_text:
        train += more_paragraphs(options.data, options.more_text, {row["text"] for row in train})
    texts = {row["text"] for row in train}
    files = {
        "stage1_train": drawn(train, options.stage1_texts),
        "stage1_valid": drawn([row for row in valid if row["text"] not in texts], options.valid_items),
    }
    pairs_train, pairs_valid = split_valid(options.data, read_parallel(options.data, tuple(languages)))
    limit = options.valid_pairs
    monolingual = MONOLINGUAL if limit is None else limit
    for code in languages:
        files[f"valid_{code}"] = drawn(pairs_of(pairs_valid, code), limit)
        own = pairs_of(pairs_train, code)
        if options.fill_valid_pairs and limit is not None:
            whole = [row for row in own if all(len(text) in PARALLEL_CHARACTERS for text in row.values())]
            files[f"valid_{code}"] += drawn(whole, limit - len(files[f"valid_{code}"]))
        files[f"monolingual_{code}"] = drawn([{"text": row["text"]} for row in own], monolingual)
    if options.parallel_texts:
        known = [row["text"] for row in files["stage1_valid"]]
        for split in ("train", "valid"):
            known += [item["text"] for item in read_jsonl(options.data / f"{split}_{ENGLISH}.jsonl")]
        free = LeakTest(known).leak_free(pairs_train.english)
        others = ParallelText([pairs_train.english[i] for i in free], [pairs_train.translations[i] for i in free])
        files |= parallel_texts(others, languages, options.parallel_texts)
        files[f"parallel_{ENGLISH}"] = [
            row | {"text_en": row["text"]} for row in drawn(train, options.parallel_texts * len(languages))
        ]
    english = [{"text": text} for text in pairs_train.english]
    files[f"monolingual_{ENGLISH}"] = drawn(english, monolingual)
    for name, rows in files.items():
        write_rows(options.output / f"{name}.jsonl", rows)
    return {name: len(rows) for name, rows in files.items()}


def pairs_of(pairs: ParallelText, code: str) -> list[dict]:
    """Translations into one language with their English originals."""
    both = zip(pairs.english, pairs.translations, strict=True)
    return [{"text": found[code], "text_en": english} for english, found in both if code in found]


def more_paragraphs(data: Path, folder: Path, known: set[str]) -> list[dict]:
    """English training paragraphs of another task's folder, without those that give away a test or validation item of this one."""
    train, _ = read_documents(folder)
    rows = [row for row in paragraphs(train) if row["text"] not in known]
    texts = [row["text"] for row in rows]
    valid = LeakTest([item["text"] for item in read_jsonl(data / f"valid_{ENGLISH}.jsonl")])
    free = set(leak_test(data, ENGLISH).leak_free(texts)) & set(valid.leak_free(texts))
    return [rows[row] for row in sorted(free)]


def parallel_texts(pairs: ParallelText, languages: list[str], limit: int) -> dict[str, list[dict]]:
    """`parallel_CODE` -> at most `limit` translations of a language, each with its English original.

    Given without the task's training items: a human translation of one would be training text of the task in that language.
    """
    files = {}
    for code in languages:
        rows = [row for row in pairs_of(pairs, code) if all(len(text) in PARALLEL_CHARACTERS for text in row.values())]
        files[f"parallel_{code}"] = drawn(rows, limit)
    return files


def write_items(options: argparse.Namespace, languages: list[str]) -> dict[str, int]:
    """The task's items; training and validation items that give away a test item are left out."""
    counts: dict[str, int] = {}
    test = leak_test(options.data, ENGLISH)
    for split, limit in (("train", options.train_items), ("valid", options.valid_items)):
        items = read_jsonl(options.data / f"{split}_{ENGLISH}.jsonl")
        harmless = [items[row] for row in test.leak_free([item["text"] for item in items])]
        counts |= {f"{split} items": len(harmless), f"{split} items that leak": len(items) - len(harmless)}
        write_rows(options.output / "task" / f"{split}_{ENGLISH}.jsonl", drawn(harmless, limit))
    for code in (ENGLISH, *languages):
        items = drawn(read_jsonl(options.data / f"test_{code}.jsonl"), options.test_items)
        counts[f"test items {code}"] = len(items)
        write_rows(options.output / "task" / f"test_{code}.jsonl", items)
    return counts


def write_task(folder: Path, task: dict, languages: list[str]) -> None:
    """The task file with its data beside it and only the languages that the MT model knows."""
    task["languages"] = [ENGLISH, *languages]
    task["development_languages"] = [code for code in task["development_languages"] if code in languages]
    task["source"]["folder"] = str(folder)
    write_text(folder / "task.yaml", yaml.safe_dump(task, sort_keys=False))


def require_no_leak(output: Path, tested: Path) -> None:
    """The leak test over what was written, against the test items of a folder: the run stops at the first leak."""
    files = {"stage1_train.jsonl": ENGLISH, "stage1_valid.jsonl": ENGLISH}
    files |= {f"task/{split}_{ENGLISH}.jsonl": ENGLISH for split in ("train", "valid")}
    files |= {path.name: path.stem.split("_", 1)[1] for path in output.glob("monolingual_*.jsonl")}
    files |= {path.name: path.stem.split("_", 1)[1] for path in output.glob("valid_*.jsonl")}
    parallel = {path.name: path.stem.split("_", 1)[1] for path in output.glob("parallel_*.jsonl")}
    files |= parallel
    tests = {code: leak_test(tested, code) for code in {ENGLISH, *files.values()}}
    for name, code in files.items():
        rows = read_jsonl(output / name)
        tests[code].require_none([row["text"] for row in rows], str(output / name))
        if name in parallel:
            tests[ENGLISH].require_none([row["text_en"] for row in rows], str(output / name))


if __name__ == "__main__":
    run_and_exit(main)
