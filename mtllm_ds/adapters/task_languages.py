"""Which language a task of a harness is in: a harness knows its tasks by name alone."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from mtllm_ds.errors import UserError
from mtllm_ds.languages import ALIASES, FLORES_200, check_language

_CODES = frozenset([*FLORES_200, *(alias for alias in ALIASES if "_" in alias)])
_SUITES = frozenset(
    """
    arc arc_challenge_mt bertaqa boolqa careqa copa eqbench glianorex headqa hellaswag indicxnli lambada_openai_mt
    lambada_openai_mt_stablelm m_mmlu mela mgsm mgsm_direct mgsm_en_cot mgsm_native_cot openbookqa paws pisa piqa siqa
    truthfulqa-multi_gen truthfulqa-multi_mc1 truthfulqa-multi_mc2 tydiqa_goldp wnli xcopa xlsum xnli xquad xstorycloze xwinograd
    """.split()  # noqa: SIM905 - one name a line would be 35 lines
)
"""Whose tasks end with a short code; elsewhere one may be anything: `agieval_lsat_ar` is analytical reasoning, `xnli_eu_mt` a
machine translation, `mlqa_ar_de` holds two languages."""


class TaskLanguages:
    """FLORES-200 codes of tasks, by name: from a table, else one for all, else the code at the end of the name (a short one, as
    `de`, only in suites that are known to be named so)."""

    def __init__(self, lang: str | None = None, table: Mapping[str, str] | str | Path | None = None) -> None:
        """
        Args:
            lang: of every task that the table does not name
            table: names of tasks, or patterns with * and ?, and their codes; or a YAML or JSON file with them. The first that fits
                counts

        Raises:
            UserError: there is no such file, it holds no table, or a code is unknown.
        """
        self._lang = None if lang is None else check_language(lang)
        self.table = {name: check_language(code) for name, code in _read(table).items()}

    def __call__(self, task: str) -> str:
        """The code of a task's language; `UserError` where nothing tells it."""
        if (code := self.named(task)) is not None:
            return code
        if self._lang is not None:
            return self._lang
        suite, _, short = task.rpartition("_")
        code = "_".join(task.split("_")[-2:])
        if code != task and code in _CODES:
            return check_language(code)
        if suite in _SUITES and short in ALIASES:
            return check_language(short)
        raise UserError(
            f"languages: the name of the task '{task}' ends with no language's code such as deu_Latn, nor is it of a suite "
            "whose short codes are known; give lang=CODE, or a table in languages"
        )

    def named(self, task: str) -> str | None:
        """The code that the table says, where it does."""
        return next((code for pattern, code in self.table.items() if fnmatchcase(task, pattern)), None)


def _read(table: Mapping[str, str] | str | Path | None) -> dict[str, str]:
    found: Any = table or {}
    if isinstance(table, str | Path):
        try:
            found = yaml.safe_load(Path(table).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"languages={table}: cannot be read ({reason}); give a YAML file") from error
    if not isinstance(found, Mapping) or not all(isinstance(part, str) for pair in found.items() for part in pair):
        raise UserError(f"languages={table}: no table of tasks and codes; write lines such as 'belebele_*: deu_Latn'")
    return dict(found)
