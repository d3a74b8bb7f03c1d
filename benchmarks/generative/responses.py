"""Second step of the generative benchmark: how the LLM itself, reading English, answers each prompt.

Writes below --output:

    train.jsonl, valid.jsonl   records for `mtllm-ds prepare dialogues`; answers are sampled for training, greedy for validation
    heldout.jsonl              records for `mtllm-ds evaluate generation`, in all languages: greedy answers to the English originals
    responses.json             counts, and what decides the answers

Both sides are asked in English for an explanation of the paragraph (`asked`), the LLM by its chat template. Batches are kept
as they are written, so a killed run goes on. Prompts with an answer of fewer than LEAST_TOKENS are left out and counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.generative.budgets import BUDGETS
from benchmarks.generative.data import Row, write_rows
from benchmarks.quality.text.folder_text import read_jsonl
from mtllm_ds.atomic import write_json
from mtllm_ds.cluster.agree import together
from mtllm_ds.cluster.launch import Cluster, join_cluster_if_launched, leave_cluster
from mtllm_ds.cluster.precision import reading_dtype
from mtllm_ds.command_line import Parser, add_precision, run_and_exit
from mtllm_ds.data.text.chat import ChatSettings, Messages
from mtllm_ds.languages import ENGLISH
from mtllm_ds.transfer_sets.sdrrl.chat_model import ChatModel, Generation, Job, provenance, write_jobs
from mtllm_ds.transfer_sets.sdrrl.stages import Stage

INSTRUCTION = "Explain this text about software in your own words: "
LEAST_TOKENS = 4
BATCH_SIZE = 64


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="folder of the step before")
    parser.add_argument("--budget", choices=list(BUDGETS), required=True)
    parser.add_argument("--llm", required=True)
    add_precision(parser)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    budget, cluster = BUDGETS[options.budget], join_cluster_if_launched()
    dtype = reading_dtype(options.precision, cluster.device)
    llm = ChatModel(
        options.llm, ChatSettings(), revision=None, trust_remote_code=False, device=cluster.device, dtype=dtype
    )
    how = {
        "heldout": Generation(max_new_tokens=budget.heldout_tokens),
        "valid": Generation(max_new_tokens=budget.train_tokens),
        "train": Generation(max_new_tokens=budget.train_tokens, temperature=0.8, top_p=0.95),
    }
    asks, found = {}, {}
    for name, generation in how.items():
        rows = read_jsonl(options.text / f"{name}.jsonl")
        asks[name] = [row for row in rows if name != "heldout" or row["language"] == ENGLISH]
        found[name] = answered(name, asks[name], llm, generation, options.output, cluster)
    if cluster.is_main:
        kept = {name: [row for row in rows if len(row["ids"]) >= LEAST_TOKENS] for name, rows in found.items()}
        prompts = read_jsonl(options.text / "heldout.jsonl")
        write_rows(options.output / "heldout.jsonl", heldout_dialogues(prompts, kept["heldout"]))
        for name in ("valid", "train"):
            write_rows(options.output / f"{name}.jsonl", dialogues(asks[name], kept[name]))
        counts = {name: {"asked": len(rows), "kept": len(kept[name])} for name, rows in found.items()}
        by = {name: provenance(llm, 0, generation) for name, generation in how.items()}
        write_json(options.output / "responses.json", {"counts": counts, "by": by, "instruction": INSTRUCTION})
    leave_cluster()
    return 0


def asked(text: str) -> Messages:
    """What is read of a paragraph, in whatever language that is."""
    return [{"role": "user", "content": INSTRUCTION + text}]


def answered(
    name: str, prompts: Sequence[Row], llm: ChatModel, generation: Generation, folder: Path, cluster: Cluster
) -> list[Row]:
    """The LLM's answer to each English paragraph: {id, response, ended, ids}, in the order of the prompts."""
    jobs = [Job(row["id"], llm.chat.prompt_ids(asked(row["english"]))) for row in prompts]
    settings = {"by": provenance(llm, 0, generation), "prompts": [[job.id, len(job.prompt_ids)] for job in jobs]}
    stage = Stage(folder / "written", name, settings)
    if not stage.is_done:
        with Console().status(name) as status:
            found = write_jobs(
                jobs, llm, stage, cluster, seed=0, generation=generation, batch_size=BATCH_SIZE,
                record=lambda job, text, ended: {"id": job.id, "response": text, "ended": ended},
                progress=lambda done, total: status.update(f"{name}: {done} of {total} answered"),
            )  # fmt: skip
        answers = [found[job.id] for job in jobs]
        together(lambda: stage.finish(answers, {"answered": len(jobs)}) if cluster.is_main else None, cluster.device)
    return [row | {"ids": llm.chat.response_ids(row["response"], ends=False)} for row in stage.rows]


def dialogues(prompts: Sequence[Row], answers: Sequence[Row]) -> list[Row]:
    """Records for `prepare dialogues`: English is what both sides read, of a translation the teacher reads the original."""
    known = {row["id"]: row for row in prompts}
    records = []
    for answer in answers:
        row = known[answer["id"]]
        record = {"id": row["id"], "language": row["language"], "messages": asked(row["prompt"])}
        if row["prompt"] != row["english"]:
            record["teacher_messages"] = asked(row["english"])
        records.append(record | {"response": answer["response"]})
    return records


def heldout_dialogues(prompts: Sequence[Row], answers: Sequence[Row]) -> list[Row]:
    """Records for `evaluate generation`: the teacher reads the English original, and the bare prompt is the instruction alone."""
    known = {row["id"]: row["response"] for row in answers}
    return [
        {
            "id": row["id"], "group": row["group"], "language": row["language"], "messages": asked(row["prompt"]),
            "teacher_messages": asked(row["english"]), "bare_messages": asked(""), "response": known[row["id"]],
        }
        for row in prompts
        if row["id"] in known
    ]  # fmt: skip


if __name__ == "__main__":
    run_and_exit(main)
