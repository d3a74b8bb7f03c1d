"""Fourth step of the generative benchmark: held-out prompts in every language, read by the stack and by the LLM itself.

Writes `LANGUAGE.json` below --output: for every prompt and reading, sums over the tokens of the LLM's own English
answer (`nll` of it, `kl` from the LLM that reads the English original), and `LANGUAGE.answers.jsonl`: what each side writes.
A language that is done is skipped; ranks share the languages.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks.generative.budgets import BUDGETS
from benchmarks.generative.data import Row, write_rows
from benchmarks.generative.responses import asked
from benchmarks.quality.text.folder_text import read_jsonl
from mtllm_ds.atomic import write_json
from mtllm_ds.cluster.launch import join_cluster_if_launched, leave_cluster
from mtllm_ds.cluster.precision import reading_dtype
from mtllm_ds.command_line import Parser, add_precision, run_and_exit
from mtllm_ds.evaluation.generation.readings import Readings, readings
from mtllm_ds.evaluation.generation.texts import answer_figures
from mtllm_ds.inference import MTLLM
from mtllm_ds.languages import ENGLISH
from mtllm_ds.models.speaker import Speaker
from mtllm_ds.transfer_sets.sdrrl.filters import LanguageCheck

READINGS = {
    "stack": "stack, the prompt",
    "shuffled": "stack, another prompt",
    "llm": "LLM, the prompt itself",
    "none": "LLM, no prompt",
    "english": "LLM, the English original",
}
"""Who reads what before the response; the last is the teacher itself"""
BATCH_SIZE = 32


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the exported stack")
    parser.add_argument("--text", type=Path, required=True, help="folder of prompts")
    parser.add_argument("--responses", type=Path, required=True, help="folder of responses")
    parser.add_argument("--budget", choices=list(BUDGETS), required=True)
    parser.add_argument("--output", type=Path, required=True)
    add_precision(parser)
    options = parser.parse_args()
    budget = BUDGETS[options.budget]
    responses = {row["id"]: row for row in read_jsonl(options.responses / "heldout.jsonl")}
    prompts = [row for row in read_jsonl(options.text / "heldout.jsonl") if row["id"] in responses]
    cluster = join_cluster_if_launched()
    dtype = reading_dtype(options.precision, cluster.device)
    model = MTLLM.from_pretrained(options.model, device=cluster.device, dtype=dtype)
    stack, llm = model.speaker(plain=False), model.speaker(plain=True)
    english = [row for row in prompts if row["language"] == ENGLISH]
    ids = [responses[row["id"]]["ids"] for row in english]
    known = llm.states_before(llm.read([asked(row["english"]) for row in english], None), ids, BATCH_SIZE)
    console, check = Console(), LanguageCheck()
    for language in (ENGLISH, *budget.languages)[cluster.rank :: cluster.world_size]:
        place = options.output / f"{language}.json"
        if place.exists():
            continue
        rows = [row for row in prompts if row["language"] == language]
        assert [row["id"] for row in rows] == [row["id"] for row in english]
        with console.status(language):
            found = scores(stack, llm, rows, ids, known)
            written = answers(model, rows, budget.heldout_tokens, responses)
            write_rows(options.output / f"{language}.answers.jsonl", written)
            groups = [row["group"] for row in rows]
            write_json(place, {"groups": groups, "sums": found, "answers": figures_of_answers(model, written, check)})
        console.print(language, highlight=False)
    leave_cluster()
    return 0


def scores(
    stack: Speaker, llm: Speaker, rows: Sequence[Row], responses: Sequence[Sequence[int]], known: Sequence[torch.Tensor]
) -> dict[str, dict[str, list[float]]]:
    """reading -> sums of each prompt of one language."""
    language = rows[0]["language"]
    heard = stack.read([asked(row["prompt"]) for row in rows], language)
    read = {
        "stack": (stack, heard),
        "shuffled": (stack, [heard[place] for place in others([row["group"] for row in rows])]),
        "llm": (llm, llm.read([asked(row["prompt"]) for row in rows], None)),
        "none": (llm, llm.read([asked("")] * len(rows), None)),
        "english": (llm, llm.read([asked(row["english"]) for row in rows], None)),
    }
    return {
        name: plain(readings(speaker, prompts, responses, known, BATCH_SIZE))
        for name, (speaker, prompts) in read.items()
    }


def others(groups: Sequence[str]) -> list[int]:
    """For each prompt another one, of another group: the nearest at least half of the list away."""
    count = len(groups)
    found = []
    for place, group in enumerate(groups):
        tries = [(place + count // 2 + step) % count for step in range(count)]
        found.append(next((other for other in tries if groups[other] != group), tries[0]))
    return found


def answers(model: MTLLM, rows: Sequence[Row], num_tokens: int, responses: Mapping[str, Row]) -> list[Row]:
    """What the stack and the LLM write after each prompt, greedily, beside what the LLM writes after its English."""
    options: dict[str, Any] = {"max_new_tokens": num_tokens, "batch_size": 2 * BATCH_SIZE, "do_sample": False}
    heard = model.generate([asked(row["prompt"]) for row in rows], rows[0]["language"], **options)
    read = model.generate_with_llm([asked(row["prompt"]) for row in rows], **options)
    return [
        {
            "id": row["id"], "language": row["language"], "prompt": row["prompt"], "english": row["english"],
            "teacher": responses[row["id"]]["response"], "stack": stack.strip(), "llm": llm.strip(),
        }
        for row, stack, llm in zip(rows, heard, read, strict=True)
    ]  # fmt: skip


def figures_of_answers(model: MTLLM, written: Sequence[Row], check: LanguageCheck) -> dict[str, dict[str, float]]:
    """What the answers of `stack` and `llm` are like; near is what the stack's encoder finds near."""

    def vectors(side: str) -> np.ndarray:
        # An empty answer is near to nothing; the encoder wants a text.
        return model.encode_with_encoder([row[side] or "-" for row in written], ENGLISH).numpy()

    sides = {side: [row[side] for row in written] for side in ("stack", "llm", "teacher")}
    teacher = vectors("teacher")
    return {
        side: answer_figures(
            sides[side], sides["teacher"], ENGLISH, check, {"answers": vectors(side), "teacher": teacher}
        )
        for side in ("stack", "llm")
    }


def plain(found: Readings) -> dict[str, list[float]]:
    return {"num_tokens": found.num_tokens.tolist(), "nll": found.nll.tolist(), "kl": found.kl.tolist()}


def load_scores(folder: Path, languages: Sequence[str]) -> dict[str, dict[str, Readings]]:
    """language -> reading -> its sums."""
    return {
        language: {
            name: Readings(*(np.array(own[key]) for key in ("num_tokens", "nll", "kl")))
            for name, own in read_found(folder, language)["sums"].items()
        }
        for language in languages
    }


def read_found(folder: Path, language: str) -> dict[str, Any]:
    """All that was found of a language: `groups` of the prompts, `sums` by reading, figures of the `answers` by side."""
    return json.loads((folder / f"{language}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    run_and_exit(main)
