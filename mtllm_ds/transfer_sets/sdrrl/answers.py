"""Stage 2: the chat model's own answers to the instructions, or those of people, and why some of them are not used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.languages import ENGLISH
from mtllm_ds.transfer_sets.sdrrl.chat_model import ChatModel, Generation, Job, provenance, write_jobs
from mtllm_ds.transfer_sets.sdrrl.filters import LanguageCheck, why_rejected
from mtllm_ds.transfer_sets.sdrrl.stages import Progress, Row, Stage
from mtllm_ds.transfer_sets.translation.sentences import Piece, split_sentences


def write_answers(
    stage: Stage,
    instructions: Sequence[Row],
    chat_model: ChatModel,
    cluster: Cluster,
    *,
    seed: int,
    generation: Generation,
    batch_size: int,
    keep_sentences: bool,
    check: LanguageCheck | None,
    progress: Progress,
) -> tuple[list[Row], Counter[str]]:
    """A row per instruction, in their order, and counts: `kept`, or why one was rejected.

    Args:
        keep_sentences: of an answer that was cut off, all sentences but the last are kept, and its row says `trimmed`

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
        text, ended = answer["response"], answer["ended"]
        whole = whole_sentences(text) if keep_sentences and not ended else ""
        if whole:
            text, ended = whole, True
        reason = unfit.get(row["id"]) or why_rejected(text, ended, ENGLISH, check)
        counts[reason or "kept"] += 1
        more = {"rejected": reason} if reason else {"trimmed": True} if whole else {}
        rows.append({"id": row["id"], "prompt": row["prompt"], "response": text, **more, "by": by})
    return rows, counts


def gold_answers(
    instructions: Sequence[Row], chat_model: ChatModel, check: LanguageCheck | None
) -> tuple[list[Row], Counter[str]]:
    """The answers that came with the instructions, in the same form; of the chat model only the tokenizer is asked."""
    rows: list[Row] = []
    counts: Counter[str] = Counter()
    for row in instructions:
        prompt, text = row["prompt"], row["gold"]
        special = "special_token" if chat_model.chat.spells_special([prompt, text]) else None
        reason = special or why_rejected(text, True, ENGLISH, check)
        counts[reason or "kept"] += 1
        more = {"rejected": reason} if reason else {}
        rows.append({"id": row["id"], "prompt": prompt, "response": text, **more, "by": row["by"]})
    return rows, counts


def whole_sentences(text: str) -> str:
    """A text up to the end of its last whole sentence; nothing where there is none, or where a block of code is left open."""
    *pieces, _ = split_sentences(text) or [Piece("", "")]
    whole = "".join(piece.gap + piece.sentence for piece in pieces)
    return "" if whole.count("```") % 2 else whole


def kept(rows: Sequence[Row]) -> list[Row]:
    """Rows that were not rejected."""
    return [row for row in rows if "rejected" not in row]
