"""First step of the balanced benchmark: text of each language out of parallel text, split so that nothing tested was trained on.

Writes below --output, a JSONL file a language: `train/` (all that a language has; of each low-resource one as much as of the
smallest), `balanced/` (as many lines of each language as of the smallest), `valid/`, `test/` (with the hash of the English side);
and `data.json` with counts and the sha256 of what was read and written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.balanced.budgets import BUDGETS, Budget
from benchmarks.parallel_folder import file_of, require_languages, split_of
from mtllm_ds.atomic import sha256_file, write_json, write_text
from mtllm_ds.command_line import Parser, run_and_exit
from mtllm_ds.data.writing.filters import normalized_hash
from mtllm_ds.data.writing.sources import SourceReader
from mtllm_ds.errors import UserError
from mtllm_ds.languages import ENGLISH

SPLITS = ("train", "balanced", "valid", "test")
LEAST_BYTES = 24
"""Shorter lines are labels of buttons and menus."""

Lines = dict[str, str]
"""normalised hash of a line -> the line, in the file's order"""


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="folder of CODE.tsv.xz or parallel_CODE.jsonl.xz")
    parser.add_argument("--budget", choices=list(BUDGETS), required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    budget = BUDGETS[options.budget]
    require_languages(options.text, budget.languages, budget.name)
    splits = split_languages(options.text, budget)
    require_ratio(splits["train"], budget)
    for name, languages in splits.items():
        for code, lines in languages.items():
            english = english_hashes(options.text, code, budget, lines) if name == "test" else {}
            rows = (json.dumps(_row(line, english.get(line)), ensure_ascii=False) + "\n" for line in lines)
            write_text(options.output / name / f"{code}.jsonl", "".join(rows))
    write_json(options.output / "data.json", described(options.text, options.output, splits))
    return 0


def pairs_of(folder: Path, code: str, budget: Budget) -> Iterator[tuple[str, str]]:
    """(line, English) of a language; English stands beside itself, from the pairs of the other high-resource languages."""
    if code == ENGLISH:
        for other in budget.high:
            if other != ENGLISH:
                yield from ((english, english) for _, english in pairs_of(folder, other, budget))
        return
    for document in SourceReader(file_of(folder, code)):
        line, english = document.segments
        yield line, english


def english_hashes(folder: Path, code: str, budget: Budget, lines: Sequence[str]) -> dict[str, str]:
    """line -> hash of its English side: lines of any languages that share it are no independent samples."""
    wanted, found = set(lines), dict[str, str]()
    for line, english in pairs_of(folder, code, budget):
        if line in wanted:
            found.setdefault(line, normalized_hash(english))
    return found


def split_languages(folder: Path, budget: Budget) -> dict[str, dict[str, list[str]]]:
    """split -> language -> lines; no line stands twice, whatever its case and punctuation, in whatever language."""
    found: dict[str, dict[str, Lines]] = {name: {} for name in ("train", "valid", "test")}
    limits = dict.fromkeys(budget.high, budget.high_lines) | dict.fromkeys(budget.low, budget.low_lines)
    for code in budget.languages:
        own: dict[str, Lines] = {name: {} for name in found}
        num_lines = 0
        for line, english in pairs_of(folder, code, budget):
            key = normalized_hash(line)
            if len(line.encode()) < LEAST_BYTES or any(key in lines for lines in own.values()):
                continue
            if num_lines == limits[code]:
                break
            num_lines += 1
            own[split_of(english)][key] = line
        for name in found:
            found[name][code] = own[name]
    tested = {key for lines in found["test"].values() for key in lines}
    held_out = tested | {key for lines in found["valid"].values() for key in lines}
    kept = {
        "train": _without(found["train"], held_out),
        "valid": _drawn(_without(found["valid"], tested), budget.valid_lines),
        "test": _drawn(found["test"], budget.test_lines),
    }
    empty = [f"{name} of {code}" for name, languages in kept.items() for code, lines in languages.items() if not lines]
    if empty:
        raise UserError(f"TEXT={folder}: no line is left for {empty[0]}; give more text")
    smallest = min(len(lines) for lines in kept["train"].values())
    kept["balanced"] = _drawn(kept["train"], smallest)
    # Low-resource languages have the smallest one's size, so that one teacher each serves both kinds of data.
    kept["train"] |= {code: kept["balanced"][code] for code in budget.low}
    return {name: {code: list(lines.values()) for code, lines in kept[name].items()} for name in SPLITS}


def require_ratio(train: dict[str, list[str]], budget: Budget) -> None:
    """Stop where low-resource languages have too much for the name."""
    sizes = {code: sum(len(line) for line in lines) for code, lines in train.items()}
    high, low = min(budget.high, key=sizes.__getitem__), max(budget.low, key=sizes.__getitem__)
    if sizes[high] < budget.least_ratio * sizes[low]:
        raise UserError(
            f"TEXT: {high} has {sizes[high]} characters to train on and {low} {sizes[low]}, less than {budget.least_ratio:g} times "
            "as many; give other text"
        )


def described(folder: Path, output: Path, splits: dict[str, dict[str, list[str]]]) -> dict:
    """Counts, and the sha256 of every file that was read or written."""
    read = {Path(file_of(folder, code).path) for code in splits["train"] if code != ENGLISH}
    written = sorted(path for name in SPLITS for path in (output / name).glob("*.jsonl"))
    return {
        "lines": {name: {code: len(lines) for code, lines in own.items()} for name, own in splits.items()},
        "bytes": {
            name: {code: sum(len(line.encode()) for line in lines) for code, lines in own.items()}
            for name, own in splits.items()
        },
        "read": {path.name: sha256_file(path) for path in sorted(read)},
        "written": {str(path.relative_to(output)): sha256_file(path) for path in written},
    }


def _row(line: str, english: str | None) -> dict[str, str]:
    return {"text": line} if english is None else {"text": line, "english": english}


def _without(languages: dict[str, Lines], keys: set[str]) -> dict[str, Lines]:
    return {code: {key: line for key, line in lines.items() if key not in keys} for code, lines in languages.items()}


def _drawn(languages: dict[str, Lines], limit: int) -> dict[str, Lines]:
    """At most so many lines a language, chosen by hash, in their order."""
    chosen = {}
    for code, lines in languages.items():
        first = set(sorted(lines, key=lambda key: hashlib.sha256(key.encode()).digest())[:limit])
        chosen[code] = {key: line for key, line in lines.items() if key in first}
    return chosen


if __name__ == "__main__":
    run_and_exit(main)
