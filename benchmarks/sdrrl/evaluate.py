"""Step of the SDRRL benchmark: what a model makes of text of people, what it answers, and how far it is from where it started.

Writes below --output:

    found.json        `human`: language -> reading -> sums over the tokens of each held-out line, of the cross-entropy and, on
                      English, the divergence from the untouched model; `answers`: figures of greedy answers by language
    answers.jsonl     the answers, beside the untouched model's own English ones
    english.safetensors   of the untouched model: its states on English continuations, for the divergence of the others

Readings: `continuation`, the second half of a line behind the request to continue the first, by the chat template;
`alone`, the line behind its first token, without a template.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save

from benchmarks.quality.text.folder_text import read_jsonl
from benchmarks.sdrrl.budgets import BUDGETS, Budget
from benchmarks.sdrrl.text import Row, write_rows
from mtllm_ds.atomic import write_bytes, write_json
from mtllm_ds.cluster.launch import join_cluster_if_launched, leave_cluster
from mtllm_ds.cluster.precision import reading_dtype
from mtllm_ds.command_line import Parser, add_precision, run_and_exit
from mtllm_ds.data.text.chat import ChatSettings, DialogueTokenizer, Messages
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.evaluation.generation.readings import cross_entropies, readings
from mtllm_ds.evaluation.generation.texts import answer_figures, language_fidelity
from mtllm_ds.inference import MTLLM
from mtllm_ds.languages import ENGLISH
from mtllm_ds.models.speaker import Speaker
from mtllm_ds.models.writer import ReadPrompt
from mtllm_ds.transfer_sets.sdrrl.filters import LanguageCheck, is_repeated
from mtllm_ds.transfer_sets.sdrrl.language_names import english_name
from mtllm_ds.transfer_sets.sdrrl.pairs import halves, request_to_continue

READINGS = {"continuation": "continued", "alone": "whole lines"}
STATES = "english.safetensors"
BATCH_SIZE = 32


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--llm", required=True, help="the untouched model")
    add("--model", type=Path, help="export of a trained one (default: the untouched model itself)")
    add("--untouched", type=Path, help="folder that this step left for the untouched model")
    add("--text", type=Path, required=True, help="folder of the first step")
    add("--questions", type=Path, required=True, help="held-out questions")
    add("--budget", choices=list(BUDGETS), required=True)
    add_precision(parser)
    add("--output", type=Path, required=True)
    options = parser.parse_args()
    budget, cluster, console = BUDGETS[options.budget], join_cluster_if_launched(), Console()
    dtype = reading_dtype(options.precision, cluster.device)
    if options.model is None:
        model = MTLLM.from_base("llm", options.llm, device=cluster.device, dtype=dtype)
    else:
        model = MTLLM.from_pretrained(options.model, device=cluster.device, dtype=dtype)
    speaker, ids = model.speaker(plain=False), token_ids(options.llm)
    known: list[torch.Tensor] | None = None
    if options.untouched is not None:
        known = [states.to(cluster.device) for states in load_file(options.untouched / STATES).values()]
    human: dict[str, dict[str, Any]] = {}
    for code in (ENGLISH, *budget.languages):
        with console.status(f"{code}: text of people"):
            rows = read_jsonl(options.text / f"human_{code}.jsonl")
            prompts, rest = continuations(rows, code, speaker, ids)
            if code == ENGLISH:
                known = known or speaker.states_before(prompts, rest, BATCH_SIZE)
                if options.model is None:
                    write_bytes(
                        options.output / STATES, save({f"{at:06d}": one.contiguous() for at, one in enumerate(known)})
                    )
            human[code] = {
                "names": [row["name"] for row in rows],
                "continuation": sums_of(speaker, prompts, rest, known if code == ENGLISH else None),
                "alone": sums_of(speaker, *whole(rows, ids)),
            }
    with console.status("answers"):
        written = answers(model, read_jsonl(options.questions), budget)
    write_rows(options.output / "answers.jsonl", written)
    write_json(options.output / "found.json", {"human": human, "answers": figures_of(written, LanguageCheck())})
    leave_cluster()
    return 0


def token_ids(llm: str) -> DialogueTokenizer:
    """Ids of given texts."""
    return DialogueTokenizer(load_text_tokenizer(TokenizerSpec(name=llm, side="llm")), ChatSettings())


def asked(prompt: str) -> Messages:
    return [{"role": "user", "content": prompt}]


def continuations(
    rows: Sequence[Row], code: str, speaker: Speaker, ids: DialogueTokenizer
) -> tuple[list[ReadPrompt], list[list[int]]]:
    """Prompts and responses of the first reading."""
    parts = [halves(row["text"], code) for row in rows]
    prompts = [asked(request_to_continue(first, english_name(code))) for first, _ in parts]
    return speaker.read(prompts, None), [ids.response_ids(rest, ends=False) for _, rest in parts]


def whole(rows: Sequence[Row], ids: DialogueTokenizer) -> tuple[list[ReadPrompt], list[list[int]]]:
    """Prompts and responses of the second one."""
    lines = [ids.response_ids(row["text"], ends=False) for row in rows]
    return [ReadPrompt([], line[:1]) for line in lines], [line[1:] for line in lines]


def sums_of(
    speaker: Speaker,
    prompts: Sequence[ReadPrompt],
    responses: Sequence[Sequence[int]],
    known: Sequence[torch.Tensor] | None = None,
) -> dict[str, list[float]]:
    """Sums of each line, in nats: cross-entropy, and where the untouched model's states are `known` the divergence from it."""
    counts = {"num_tokens": [len(response) for response in responses]}
    if known is None:
        return counts | {"nll": cross_entropies(speaker, prompts, responses, BATCH_SIZE).tolist()}
    told = speaker.states_before(prompts, responses, BATCH_SIZE)
    found = readings(speaker, told, responses, speaker, known)  # one head for both
    return counts | {"nll": found.nll.tolist(), "kl": found.kl.tolist()}


def answers(model: MTLLM, questions: Sequence[Row], budget: Budget) -> list[Row]:
    """Greedy answers to the held-out questions in every language, English first; `teacher` is the untouched model's English answer,
    translated."""
    rows = [
        {
            "id": row["id"],
            "language": ENGLISH,
            "english": row["english"],
            "prompt": row["english"],
            "teacher": row["teacher"],
        }
        for row in questions
    ]
    rows += [
        {"id": row["id"], "language": code, "english": row["english"], "prompt": row[code]["prompt"]}
        | {"teacher": row[code]["response"]}
        for code in budget.languages
        for row in questions
    ]
    options: dict[str, Any] = {"max_new_tokens": budget.answer_tokens, "batch_size": len(rows), "do_sample": False}
    written = model.generate([asked(row["prompt"]) for row in rows], None, **options)
    return [row | {"answer": text.strip()} for row, text in zip(rows, written, strict=True)]


def figures_of(written: Sequence[Row], check: LanguageCheck) -> dict[str, dict[str, Any]]:
    """By language: figures of the answers, and of each, loops counting as neither, whether its likeliest language is that of its
    question (`faithful`), and whether it has words and no other language is beyond doubt (`no_other`)."""
    found: dict[str, dict[str, Any]] = {}
    for code in dict.fromkeys(row["language"] for row in written):
        own = [row for row in written if row["language"] == code]
        texts = [row["answer"] for row in own]
        says = [not is_repeated(text) for text in texts]
        found[code] = {
            "names": [row["id"] for row in own],
            "faithful": [
                float(told and check.is_likeliest(text, code)) for told, text in zip(says, texts, strict=True)
            ],
            "no_other": [told * language_fidelity([text], code, check) for told, text in zip(says, texts, strict=True)],
            "figures": answer_figures(texts, [row["teacher"] for row in own], code, check, None),
        }
    return found


if __name__ == "__main__":
    run_and_exit(main)
