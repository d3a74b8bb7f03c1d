"""A step of the facts benchmark: what each choice is worth to a model behind each question, in nats.

Writes a row for every question and form to --output: {item, kind, country, language, form, own_name, answer, choices, tokens,
bytes, nll, blind} and, with --another, {another}; from `choices` on they are lists, an entry a choice. `own_name` says whether the
name in the question differs from the English one. `nll` is the choice's cross-entropy behind the question, summed over
its tokens; `blind` the same behind the question with dots in place of the name, `another` behind that about another country, of
which no choice is true.

An LLM reads the question itself, a stack through its encoder with the language's tag. Choices are English, and the LLM's to tell.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from benchmarks.facts.budgets import BUDGETS
from benchmarks.facts.items import HALVES, Item, make_items
from benchmarks.facts.templates import KINDS, WORDINGS
from mtllm_ds.atomic import write_text
from mtllm_ds.cluster.precision import reading_dtype
from mtllm_ds.command_line import Parser, add_precision, quiet_libraries, run_and_exit
from mtllm_ds.evaluation.generation.readings import cross_entropies
from mtllm_ds.inference import MTLLM
from mtllm_ds.models.speaker import Speaker

Row = dict[str, Any]
FORMS = ("plain", "labelled", "chat")
"""The question alone; with the labels `Question:` and `Answer:` of its language; as a user's message, which an LLM
without a chat template is not asked"""


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--llm", required=True, help="a language model; without --stack it reads the questions itself")
    add("--stack", help="an export on this language model, whose encoder reads them")
    add("--budget", choices=list(BUDGETS), required=True)
    add("--half", choices=HALVES, required=True, help="of the countries")
    add("--language", choices=list(WORDINGS), required=True)
    add(
        "--kinds",
        type=json.loads,
        required=True,
        help='JSON of kinds and the forms to ask them in: {"capital": ["chat"]}',
    )
    add("--another", action="store_true", help="ask about another country too, which shows what the name is worth")
    add("--device", default="cpu")
    add_precision(parser)
    add("--output", type=Path, required=True)
    options = parser.parse_args()
    device = torch.device(options.device)
    dtype = reading_dtype(options.precision, device)
    if options.stack is None:
        model = MTLLM.from_base("llm", options.llm, device=device, dtype=dtype)
    else:
        model = MTLLM.from_pretrained(options.stack, llm=options.llm, device=device, dtype=dtype)
    budget = BUDGETS[options.budget]
    items = make_items(budget.seed, options.half, budget.num_of(options.half))
    speaker = model.speaker(plain=False)
    rows: list[Row] = []
    forms = [
        form for form in FORMS if form != "chat" or "encoder" in speaker.sides or speaker.chat_template is not None
    ]
    wanted = [(kind, form) for kind in KINDS for form in options.kinds.get(kind, ()) if form in forms]
    for kind, form in track(wanted, options.language):
        of_kind = [item for item in items if item.kind == kind]
        rows += ask(speaker, of_kind, options.language, form, budget.batch_size, another=options.another)
    write_text(options.output, "".join(json.dumps(row) + "\n" for row in rows))
    return 0


def ask(
    speaker: Speaker, items: Sequence[Item], language: str, form: str, batch_size: int, *, another: bool = False
) -> list[Row]:
    """A row for each question."""
    abouts = {"itself": "nll", "nothing": "blind", **({"another": "another"} if another else {})}
    questions = {about: [item.question(language, about) for item in items] for about in abouts}
    pairs = sorted(
        {
            (question, choice)
            for asked in questions.values()
            for question, item in zip(asked, items, strict=True)
            for choice in item.choices
        }
    )
    told = dict(zip(pairs, _worth(speaker, pairs, language, form, batch_size), strict=True))
    rows = []
    for number, item in enumerate(items):
        worth = {
            name: [told[questions[about][number], choice] for choice in item.choices] for about, name in abouts.items()
        }
        rows.append({
            "item": item.id, "kind": item.kind, "country": item.country, "language": language, "form": form,
            "own_name": item.has_own_name(language), "answer": item.answer, "choices": list(item.choices),
            "tokens": [tokens for _, tokens in worth["nll"]], "bytes": [len(choice.encode()) for choice in item.choices],
            **{name: [nll for nll, _ in own] for name, own in worth.items()},
        })  # fmt: skip
    return rows


def prompt_of(question: str, language: str, form: str) -> Any:
    """What is read: a text, or messages."""
    if form == "chat":
        return [{"role": "user", "content": question}]
    return WORDINGS[language].labelled(question) if form == "labelled" else question


def _worth(
    speaker: Speaker, pairs: Sequence[tuple[str, str]], language: str, form: str, batch_size: int
) -> list[tuple[float, int]]:
    """Of each question and choice: the choice's summed cross-entropy in nats, and its number of tokens."""
    prompts = [prompt_of(question, language, form) for question, _ in pairs]
    choices = [choice if form == "chat" else f" {choice}" for _, choice in pairs]
    codes = [language] * len(pairs) if "encoder" in speaker.sides else None
    read, ids = speaker.read_with(prompts, choices, codes)
    nll = cross_entropies(speaker, read, ids, batch_size)
    return [(float(one), len(own)) for one, own in zip(nll, ids, strict=True)]


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
