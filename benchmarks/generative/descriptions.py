"""Descriptions of Debian's packages as prompts, beside paragraphs of the help: text of another kind, by other translators.

The folder is that of `make ddtp`: `train_eng_Latn.jsonl` for training, `test_CODE.jsonl` held out; related packages are in
one of the two. A language without translations there is asked about the help alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.generative.budgets import Budget
from benchmarks.quality.text.folder_text import read_jsonl
from benchmarks.quality.text.leaks import LeakTest
from mtllm_ds.errors import UserError
from mtllm_ds.languages import ENGLISH

Row = dict[str, Any]
LENGTHS = range(40, 301)
"""Characters of an English prompt, of any kind: shorter ones are labels"""
DESCRIPTION = "description"
"""Begins the group of each description"""


def heldout_descriptions(folder: Path, budget: Budget) -> list[Row]:
    """{id, group, language, prompt, english}: the English originals first; languages share as many packages as they can.

    Raises:
        UserError: the folder has no language of the budget, or too few descriptions of one.
    """
    found = {
        code: {row["id"]: row for row in read_jsonl(path) if len(row["text_en"]) in LENGTHS}
        for code in budget.languages
        if (path := folder / f"test_{code}.jsonl").is_file()
    }
    if not found:
        raise UserError(f"DDTP={folder}: no test_CODE.jsonl of {', '.join(budget.languages)}; make it with `make ddtp`")
    num_languages = Counter(name for rows in found.values() for name in rows)
    english: dict[str, Row] = {}
    foreign: list[Row] = []
    for code, rows in found.items():
        if len(rows) < budget.num_descriptions:
            raise UserError(
                f"DDTP={folder}: {len(rows)} descriptions of {LENGTHS[0]} to {LENGTHS[-1]} characters in {code}, "
                f"--budget={budget.name} wants {budget.num_descriptions}; give more text"
            )
        for name in sorted(rows, key=lambda name: (-num_languages[name], name))[: budget.num_descriptions]:
            row = rows[name]
            item = {"id": f"{DESCRIPTION}-{name}", "group": f"{DESCRIPTION}-{row['group']}", "english": row["text_en"]}
            english.setdefault(name, item | {"language": ENGLISH, "prompt": row["text_en"]})
            foreign.append(item | {"language": code, "prompt": row["text"]})
    return [*english.values(), *foreign]


def training_descriptions(folder: Path, leaks: LeakTest) -> list[Row]:
    """English descriptions that give no held-out prompt away, each once."""
    texts = dict.fromkeys(row["text"] for row in read_jsonl(folder / f"train_{ENGLISH}.jsonl"))
    kept = [text for text in texts if len(text) in LENGTHS and next(leaks.leaks([text]), None) is None]
    return [
        {"id": f"{DESCRIPTION}-{number}", "language": ENGLISH, "prompt": text, "english": text}
        for number, text in enumerate(kept)
    ]


def kind_of(rows: Sequence[Row]) -> list[str]:
    """What each held-out prompt is: a `description`, or of the `help`."""
    return [DESCRIPTION if row["group"].startswith(f"{DESCRIPTION}-") else "help" for row in rows]
