"""First step of the generative benchmark: prompts to train on, to validate on, and held-out ones in every language.

Writes below --output:

    train.jsonl     {id, language, prompt, english}: paragraphs of the help, and descriptions of packages
    valid.jsonl     paragraphs of pages that training has not
    heldout.jsonl   {id, group, language, prompt, english}: human translations of paragraphs whose pages are in nothing else, and of
                    descriptions; and the English originals themselves (eng_Latn)
    data.json       counts, and the sha256 of what was written

With --parallel the training prompts are human translations of training paragraphs, half of them; without it all are English.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.generative.budgets import BUDGETS, Budget
from benchmarks.generative.descriptions import LENGTHS, heldout_descriptions, training_descriptions
from benchmarks.quality.text.folder_text import joined, read_documents, read_jsonl, read_parallel
from benchmarks.quality.text.leaks import LeakTest
from mtllm_ds.atomic import sha256_file, write_json, write_text
from mtllm_ds.command_line import Parser, run_and_exit
from mtllm_ds.errors import UserError
from mtllm_ds.languages import ENGLISH

Row = dict[str, Any]


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="folder of `make help-text`, or assets/text")
    parser.add_argument(
        "--descriptions", type=Path, help="folder of `make ddtp`, for budgets that ask for descriptions"
    )
    parser.add_argument("--budget", choices=list(BUDGETS), required=True)
    parser.add_argument("--parallel", action="store_true", help="half of the training prompts are human translations")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    budget = BUDGETS[options.budget]
    if budget.num_descriptions and options.descriptions is None:
        raise UserError(f"--descriptions: --budget={budget.name} asks for them; name the folder of `make ddtp`")
    heldout = heldout_prompts(options.text, budget)
    if budget.num_descriptions:
        heldout = english_first(heldout + heldout_descriptions(options.descriptions, budget))
    train, valid = training_prompts(options.text, budget, heldout)
    if budget.num_train_descriptions:
        described = training_descriptions(options.descriptions, LeakTest(texts_of(heldout)))
        if len(described) < budget.num_train_descriptions:
            raise UserError(
                f"--descriptions={options.descriptions}: {len(described)} to train on, --budget={budget.name} wants "
                f"{budget.num_train_descriptions}; give more text"
            )
        train = train + drawn(described, budget.num_train_descriptions)
    if options.parallel:
        train = with_translations(train, translations(options.text, budget), LeakTest(texts_of(heldout)))
    files = {"train": train, "valid": valid, "heldout": heldout}
    for name, rows in files.items():
        write_rows(options.output / f"{name}.jsonl", rows)
    counts = {name: len(rows) for name, rows in files.items()}
    digests = {name: sha256_file(options.output / f"{name}.jsonl") for name in files}
    write_json(options.output / "data.json", {"rows": counts, "sha256": digests, "parallel": options.parallel})
    return 0


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def english_first(rows: Sequence[Row]) -> list[Row]:
    """Language by language, the originals first."""
    languages = dict.fromkeys([ENGLISH, *(row["language"] for row in rows)])
    return [row for code in languages for row in rows if row["language"] == code]


def is_sample(folder: Path) -> bool:
    """Whether it is the sample that ships, whose files have names of their own."""
    return (folder / f"topics_test_{ENGLISH}.jsonl.xz").is_file()


def heldout_prompts(folder: Path, budget: Budget) -> list[Row]:
    """The same paragraphs in English and in every language, English first.

    Raises:
        UserError: a language has no translations there, or too few paragraphs are in all languages.
    """
    found: dict[str, dict[str, Row]] = {}
    for code in budget.languages:
        path = folder / (f"topics_test_{code}.jsonl.xz" if is_sample(folder) else f"test_{code}.jsonl")
        if not path.is_file():
            raise UserError(
                f'TEXT={folder}: has no {path.name}; make it with `make help-text HELP_LANGUAGES="{" ".join(budget.languages)}"`'
            )
        found[code] = {row["id"]: row for row in read_jsonl(path) if len(row["text_en"]) in LENGTHS}
    first = found[budget.languages[0]]
    shared = [name for name in first if all(name in rows for rows in found.values())]
    if len(shared) < budget.num_heldout:
        raise UserError(
            f"TEXT={folder}: {len(shared)} paragraphs are in all languages, --budget={budget.name} wants {budget.num_heldout}; "
            "give more text"
        )
    chosen = drawn(shared, budget.num_heldout)
    rows = [_prompt(first[name], ENGLISH, first[name]["text_en"]) for name in chosen]
    return rows + [_prompt(found[code][name], code, found[code][name]["text"]) for code in found for name in chosen]


def training_prompts(folder: Path, budget: Budget, heldout: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """English paragraphs (training, validation) that give no held-out prompt away."""
    pages = _sample_pages(folder) if is_sample(folder) else read_documents(folder)
    leaks = LeakTest(texts_of(heldout))
    train, valid = (prompts_of(part, leaks) for part in pages)
    known = {row["prompt"] for row in train}
    valid = [row for row in valid if row["prompt"] not in known]
    if not valid or len(train) < budget.num_train:
        raise UserError(f"TEXT={folder}: {len(train)} prompts to train on, {len(valid)} to validate on; give more text")
    return drawn(train, budget.num_train), drawn(valid, budget.num_valid)


def prompts_of(pages: Sequence[Mapping[str, Any]], leaks: LeakTest) -> list[Row]:
    """Each different paragraph once."""
    found: dict[str, Row] = {}
    for page in pages:
        for paragraph in page["paragraphs"]:
            text = paragraph["text"]
            if paragraph["kind"] != "p" or len(text) not in LENGTHS or text in found:
                continue
            if next(leaks.leaks([text]), None) is None:
                found[text] = {"id": f"{len(found)}", "language": ENGLISH, "prompt": text, "english": text}
    return list(found.values())


def translations(folder: Path, budget: Budget) -> dict[str, dict[str, str]]:
    """English paragraph -> language -> its translation, of languages that are asked."""
    if is_sample(folder):
        files = {code: folder / f"parallel_{code}.jsonl.xz" for code in budget.languages}
        text = joined({code: [(r["text_en"], r["text"]) for r in read_jsonl(path)] for code, path in files.items()})
    else:
        text = read_parallel(folder, budget.languages)
    return dict(zip(text.english, text.translations, strict=True))


def with_translations(rows: Sequence[Row], known: Mapping[str, Mapping[str, str]], leaks: LeakTest) -> list[Row]:
    """Every other prompt that is translated is read in one of its languages; none that gives a held-out prompt away."""
    rng = random.Random(2)
    changed = []
    for number, row in enumerate(rows):
        options = sorted(known.get(row["english"], {}).items())
        if options and number % 2:
            code, text = rng.choice(options)
            if next(leaks.leaks([text]), None) is None:
                row = row | {"language": code, "prompt": text}
        changed.append(row)
    return changed


def texts_of(rows: Sequence[Row]) -> list[str]:
    """All texts of held-out prompts, in every language."""
    return list(dict.fromkeys(text for row in rows for text in (row["english"], row["prompt"])))


def drawn(rows: Sequence[Any], limit: int) -> list[Any]:
    """`limit` rows at random, the same each time, in their order."""
    if limit >= len(rows):
        return list(rows)
    return [rows[i] for i in sorted(random.Random(0).sample(range(len(rows)), limit))]


def _prompt(item: Mapping[str, Any], code: str, text: str) -> Row:
    return {"id": item["id"], "group": item["group"], "language": code, "prompt": text, "english": item["text_en"]}


def _sample_pages(folder: Path) -> tuple[list[Row], list[Row]]:
    """The paragraphs of the sample by page: (training, validation)."""
    parts = []
    for split in ("train", "valid"):
        pages: dict[str, Row] = {}
        for row in read_jsonl(folder / f"stage1_{split}_{ENGLISH}.jsonl.xz"):
            page = pages.setdefault(row["page"], {"page": row["page"], "paragraphs": []})
            page["paragraphs"].append({"kind": "p", "text": row["text"]})
        parts.append(list(pages.values()))
    return parts[0], parts[1]


if __name__ == "__main__":
    run_and_exit(main)
