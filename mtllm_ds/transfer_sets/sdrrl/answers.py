"""Stage 2: the chat model's own answers to the instructions, and why some of them are not used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.languages import ENGLISH
from mtllm_ds.transfer_sets.sdrrl.chat_model import ChatModel, Generation, Job, Progress, provenance, write_jobs
from mtllm_ds.transfer_sets.sdrrl.filters import LanguageCheck, why_rejected
from mtllm_ds.transfer_sets.sdrrl.stages import Row, Stage


def write_answers(
    stage: Stage,
    instructions: Sequence[Row],
    chat_model: ChatModel,
    cluster: Cluster,
    *,
    seed: int,
    generation: Generation,
    batch_size: int,
    check: LanguageCheck | None,
    progress: Progress,
) -> tuple[list[Row], Counter[str]]:
    """A row per instruction, in their order, and counts: `kept`, or why one was rejected.

    Rejected besides the reasons of `filters.py`: `special_token`, an instruction that spells one of the template's, and
    `long_prompt`, one that leaves no room for an answer of `generation.max_new_tokens`.
    """
    by = provenance(chat_model, seed, generation)
    unfit: dict[str, str] = {}
    jobs: list[Job] = []
    for row in instructions:
        ids = chat_model.chat.prompt_ids([{"role": "user", "content": row["prompt"]}])
        if chat_model.chat.spells_special([row["prompt"]]):
            unfit[row["id"]] = "special_token"
        elif len(ids) + generation.max_new_tokens > chat_model.longest:
            unfit[row["id"]] = "long_prompt"
        else:
            jobs.append(Job(row["id"], ids))
    written = write_jobs(
        jobs, chat_model, stage, cluster, seed=seed, generation=generation, batch_size=batch_size,
        record=lambda job, text, ended: {"id": job.id, "response": text, "ended": ended}, progress=progress,
    )  # fmt: skip
    rows: list[Row] = []
    counts: Counter[str] = Counter()
    for row in instructions:
        answer = written.get(row["id"], {"response": "", "ended": False})
        reason = unfit.get(row["id"]) or why_rejected(answer["response"], answer["ended"], ENGLISH, check)
        counts[reason or "kept"] += 1
        rejected = {} if reason is None else {"rejected": reason}
        rows.append({"id": row["id"], "prompt": row["prompt"], "response": answer["response"], **rejected, "by": by})
    return rows, counts


def kept(rows: Sequence[Row]) -> list[Row]:
    """Rows that were not rejected."""
    return [row for row in rows if "rejected" not in row]
