"""Step of the SDRRL benchmark: pairs of rows, out of three folders of `prepare sdrrl`; no model is asked.

Reads `own` (the model's answers to instructions about text), `self` (its answers to its own instructions) and `reference` (the
reference answers to the first), with their translations. Writes below --output:

    NAME.jsonl            dialogues of a set of pairs, for `mtllm-ds prepare dialogues`
    NAME.valid.jsonl      the same of questions that no row trains on, where the set is validated
    questions.jsonl       {id, english, teacher, CODE: {prompt, response}}: held-out questions and the model's own English answers
    material.json         counts

All sets answer the same questions: those of text whose own answer and whose reference can both be used, and self-instructions.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quality.text.folder_text import read_jsonl
from benchmarks.sdrrl.budgets import BUDGETS, Budget
from benchmarks.sdrrl.rows import BY_NAME, Pairs
from benchmarks.sdrrl.text import Row, write_rows
from mtllm_ds.atomic import write_json
from mtllm_ds.command_line import Parser, run_and_exit
from mtllm_ds.errors import UserError
from mtllm_ds.transfer_sets.sdrrl.answers import kept
from mtllm_ds.transfer_sets.sdrrl.instructions import instruction_id
from mtllm_ds.transfer_sets.sdrrl.language_names import english_name
from mtllm_ds.transfer_sets.sdrrl.pairs import Material, make_pairs
from mtllm_ds.transfer_sets.sdrrl.stages import read_rows

Translations = dict[str, dict[str, Row]]
"""language -> instruction -> question and answer"""
Lexicons = dict[str, dict[str, str]]
"""language -> English word -> word"""


@dataclass(frozen=True)
class Answered:
    """What one folder of `prepare sdrrl` holds, without what was rejected."""

    answers: dict[str, Row]
    """By instruction, in their order"""
    translations: Translations
    lexicons: Lexicons


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("own", "self", "reference"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="folder of `prepare sdrrl`")
    parser.add_argument("--text", type=Path, required=True, help="folder of the first step")
    parser.add_argument("--budget", choices=list(BUDGETS), required=True)
    parser.add_argument("--sets", nargs="+", required=True, metavar="NAME", help="sets of pairs to make")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    budget = BUDGETS[options.budget]
    split = {instruction_id(row["prompt"]): row["split"] for row in read_jsonl(options.text / "instructions.jsonl")}
    own, reference, by_itself = (read_folder(getattr(options, name), budget) for name in ("own", "reference", "self"))
    split |= splits_of_self(by_itself, budget)
    lexicons = words_of(own, by_itself)
    sources = {"own": joined(own, by_itself, lexicons), "reference": joined(reference, by_itself, lexicons)}
    shared = [name for name in sources["own"].answers if name in sources["reference"].answers]
    questions = heldout_questions(sources["own"], [name for name in split if split[name] == "heldout"], budget)
    write_rows(options.output / "questions.jsonl", questions)
    counts: dict[str, dict[str, int]] = {}
    for pairs in (own for own in pair_sets(budget) if own.name in options.sets):
        for part in ("train", *(("valid",) if pairs.validated else ())):
            names = [name for name in shared if split[name] == part]
            rows, found = pairs_of(sources[pairs.answers], names, pairs, options.text, budget)
            name = pairs.name if part == "train" else f"{pairs.name}.valid"
            write_rows(options.output / f"{name}.jsonl", rows)
            counts[name] = {f"{kind} {code}": count for (kind, code), count in found.items()}
    asked = {name: len([one for one in split.values() if one == name]) for name in ("train", "valid", "heldout")}
    used = {name: len([one for one in shared if split[one] == name]) for name in ("train", "valid")}
    write_json(
        options.output / "material.json",
        {"asked": asked, "used": used | {"heldout": len(questions)}, "pairs": counts},
    )
    return 0


def pair_sets(budget: Budget) -> list[Pairs]:
    """Of the budget's rows, each once."""
    found = {row.pairs.name: row.pairs for row in map(BY_NAME.__getitem__, budget.rows) if row.pairs is not None}
    return list(found.values())


def read_folder(folder: Path, budget: Budget) -> Answered:
    """Answers with all their translations; a folder may have no lexicon."""
    answers = {row["id"]: row for row in kept(read_rows(folder / "answers.jsonl"))}
    translations = {
        code: {row["id"]: row for row in kept(read_rows(folder / f"translations.{code}.jsonl"))}
        for code in budget.languages
    }
    lexicons = {
        code: {row["id"]: row["translation"] for row in read_rows(path)}
        for code in budget.languages
        if (path := folder / f"lexicon.{code}.jsonl").exists()
    }
    everywhere = {name: row for name, row in answers.items() if all(name in own for own in translations.values())}
    return Answered(everywhere, translations, lexicons)


def splits_of_self(by_itself: Answered, budget: Budget) -> dict[str, str]:
    """The last of the model's own instructions are held out."""
    names = list(by_itself.answers)
    held_out = names[len(names) - budget.num_self_questions :]
    if len(held_out) == len(names):
        raise UserError(
            f"--budget={budget.name}: {len(names)} self-instructions can be used, all are held out; ask for more"
        )
    return {name: "heldout" if name in held_out else "train" for name in names}


def words_of(own: Answered, by_itself: Answered) -> Lexicons:
    """Of all questions: one lexicon switches the code of every row, whosever the answers are."""
    return {code: by_itself.lexicons.get(code, {}) | own.lexicons.get(code, {}) for code in own.translations}


def joined(first: Answered, second: Answered, lexicons: Lexicons) -> Answered:
    translations = {code: own | second.translations[code] for code, own in first.translations.items()}
    return Answered(first.answers | second.answers, translations, lexicons)


def heldout_questions(source: Answered, names: Sequence[str], budget: Budget) -> list[Row]:
    """Held-out questions that have an answer and its translations."""
    return [
        {"id": name, "english": source.answers[name]["prompt"], "teacher": source.answers[name]["response"]}
        | {
            code: {key: source.translations[code][name][key] for key in ("prompt", "response")}
            for code in budget.languages
        }
        for name in names
        if name in source.answers
    ]


def pairs_of(
    source: Answered, names: Sequence[str], pairs: Pairs, text: Path, budget: Budget
) -> tuple[list[Row], Mapping[tuple[str, str], int]]:
    """Dialogues about these questions, as many as the rarest type allows, and how many of each type and language."""
    material = {
        code: Material(
            source.translations[code],
            source.lexicons[code],
            [(row["text_en"], row["text"]) for row in read_jsonl(text / f"parallel_{code}.jsonl")],
            english_name(code),
        )
        for code in budget.languages
    }
    return make_pairs([source.answers[name] for name in names], material, pairs.settings)


if __name__ == "__main__":
    run_and_exit(main)
