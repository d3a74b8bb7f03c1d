"""First step of the SDRRL benchmark: instructions with reference answers, and text of people that nothing trains on.

Writes below --output:

    instructions.jsonl     {prompt, gold, split}: asked about English lines; `gold` is what the line itself says. The splits
                           `train`, `valid` and `heldout` share no line
    human_CODE.jsonl       {text, english, name}: held-out lines of every language and of English
    parallel_CODE.jsonl    {text_en, text}: lines for the pair types `completion` and `translation`
    data.json              counts, and the sha256 of what was read and written

Lines are split by the hash of their English side, in all languages alike; what shares half of the word 8-grams of a held-out line,
on either side, is left out of the rest.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.parallel_folder import file_of, require_languages, split_of
from benchmarks.quality.text.leaks import LeakTest
from benchmarks.sdrrl.budgets import BUDGETS, Budget
from mtllm_ds.atomic import sha256_file, write_json, write_text
from mtllm_ds.command_line import Parser, run_and_exit
from mtllm_ds.data.writing.filters import normalized_hash
from mtllm_ds.data.writing.sources import SourceReader
from mtllm_ds.errors import UserError
from mtllm_ds.languages import ENGLISH
from mtllm_ds.transfer_sets.sdrrl.pairs import halves

Row = dict[str, Any]
Pair = tuple[str, str]
"""(line, English)"""
LENGTHS = range(60, 261)
"""Characters of either side: shorter ones are labels"""
_LEAST_LETTERS = 0.75
"""Of a line's characters: others are code"""
_LETTER, _WORD = re.compile(r"[^\W\d_]"), re.compile(r"[^\W\d_]{4,}")
_NUM_WORDS = 4


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="folder of CODE.tsv.xz or parallel_CODE.jsonl.xz")
    parser.add_argument("--budget", choices=list(BUDGETS), required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    budget = BUDGETS[options.budget]
    require_languages(options.text, budget.languages, budget.name)
    files = files_of(options.text, budget)
    for name, rows in files.items():
        write_rows(options.output / f"{name}.jsonl", rows)
    read = {code: file_of(options.text, code).path for code in budget.languages}
    write_json(
        options.output / "data.json",
        {
            "rows": {name: len(rows) for name, rows in files.items()},
            "read": {code: {"file": path, "sha256": sha256_file(Path(path))} for code, path in read.items()},
            "written": {name: sha256_file(options.output / f"{name}.jsonl") for name in files},
        },
    )
    return 0


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def files_of(folder: Path, budget: Budget) -> dict[str, list[Row]]:
    """File -> its rows.

    Raises:
        UserError: there is too little text.
    """
    pairs = {code: pairs_of(folder, code) for code in budget.languages}
    human = {
        code: drawn([pair for pair in own if split_of(pair[1]) == "test"], budget.num_lines, 0)
        for code, own in pairs.items()
    }
    english = list(dict.fromkeys(english for own in pairs.values() for _, english in own))
    human[ENGLISH] = drawn([(line, line) for line in english if split_of(line) == "test"], 2 * budget.num_lines, 0)
    leaks = {code: LeakTest([line for line, _ in own]) for code, own in human.items()}
    of_english = LeakTest(list(dict.fromkeys(english for own in human.values() for _, english in own)))
    free = [english[row] for row in of_english.leak_free(english)]
    files = {f"human_{code}": [_human(*pair) for pair in own] for code, own in human.items()}
    for code, own in pairs.items():
        train = _free_of([pair for pair in own if split_of(pair[1]) == "train"], leaks[code], of_english)
        files[f"parallel_{code}"] = [
            {"text_en": english, "text": line} for line, english in drawn(train, budget.num_parallel, 1)
        ]
    for name, rows in files.items():
        if not rows:
            raise UserError(f"TEXT={folder}: no line is left for {name}; give more text")
    return files | {"instructions": instructions(folder, free, budget)}


def pairs_of(folder: Path, code: str) -> list[Pair]:
    """Sentences of people with their English, each English line once."""
    found: dict[str, Pair] = {}
    for document in SourceReader(file_of(folder, code)):
        line, english = document.segments
        if line != english and is_prose(line) and is_prose(english):
            found.setdefault(normalized_hash(english), (line, english))
    return list(found.values())


def is_prose(line: str) -> bool:
    letters = len(_LETTER.findall(line)) + line.count(" ")
    return len(line) in LENGTHS and letters >= _LEAST_LETTERS * len(line)


def instructions(folder: Path, lines: Sequence[str], budget: Budget) -> list[Row]:
    """Asked about English lines, two kinds in turn."""
    wanted = {"train": budget.num_text, "valid": budget.num_valid, "heldout": budget.num_text_questions}
    pools = {"train": "train", "valid": "valid", "heldout": "valid"}
    rows: list[Row] = []
    used: set[str] = set()
    for name, count in wanted.items():
        pool = [line for line in lines if split_of(line) == pools[name] and line not in used]
        chosen = drawn(pool, count, 2)
        if len(chosen) < count:
            raise UserError(
                f"TEXT={folder}: {len(chosen)} English lines for {name}, --budget={budget.name} wants {count}; give more text"
            )
        used.update(chosen)
        rows += [asked(line, number) | {"split": name} for number, line in enumerate(chosen)]
    return rows


def asked(line: str, number: int) -> Row:
    """An instruction whose reference answer is the line, or its second half."""
    if number % 2:
        beginning, rest = halves(line, ENGLISH)
        return {"prompt": f"Continue this text:\n{beginning}", "gold": rest}
    words = list(dict.fromkeys(word.lower() for word in _WORD.findall(line)))
    chosen = sorted(sorted(words, key=len, reverse=True)[:_NUM_WORDS], key=words.index)
    return {
        "prompt": f"Write a sentence with these words: {', '.join(chosen)}.",
        "gold": line,
    }


def drawn(rows: Sequence[Any], limit: int, seed: int) -> list[Any]:
    """`limit` rows at random, the same each time, in their order."""
    if limit >= len(rows):
        return list(rows)
    return [rows[place] for place in sorted(random.Random(seed).sample(range(len(rows)), limit))]


def _free_of(pairs: Sequence[Pair], leaks: LeakTest, of_english: LeakTest) -> list[Pair]:
    """Pairs that give no held-out line away on either side."""
    by_line = set(leaks.leak_free([line for line, _ in pairs]))
    return [pairs[row] for row in of_english.leak_free([english for _, english in pairs]) if row in by_line]


def _human(line: str, english: str) -> Row:
    return {"text": line, "english": english, "name": normalized_hash(english)}


if __name__ == "__main__":
    run_and_exit(main)
