"""Stage 1: English instructions, read from files or sampled from the chat model itself.

A chat model that is given nothing but the beginning of a user's turn goes on with what users ask (self-instructions; as in Magpie,
Xu et al., arXiv 2406.08464).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.data.writing.filters import normalized_hash
from mtllm_ds.data.writing.sources import InputFile, SourceReader
from mtllm_ds.errors import UserError
from mtllm_ds.languages import ENGLISH
from mtllm_ds.transfer_sets.sdrrl.chat_model import ChatModel, Generation, Job, provenance, write_jobs
from mtllm_ds.transfer_sets.sdrrl.filters import LanguageCheck, why_rejected
from mtllm_ds.transfer_sets.sdrrl.stages import Progress, Row, Stage

_MOST_BATCHES = 8
"""Of a round; the same on any number of ranks."""
_MOST_TRIES = 20
"""Samples per instruction that is wanted, before the model is given up."""


@dataclass(frozen=True, kw_only=True)
class SelfInstructions:
    """How many the model writes, and how it is sampled."""

    count: int
    generation: Generation
    batch_size: int = 16


class Sieve:
    """Lets an instruction through once, and none of the exclusion list. Compared are lower-cased words."""

    def __init__(self, exclusions: frozenset[bytes]) -> None:
        self._exclusions = exclusions
        self._seen: set[str] = set()

    def reason(self, text: str) -> str | None:
        """`excluded`, `duplicate`, or None."""
        digest = normalized_hash(text)
        if bytes.fromhex(digest) in self._exclusions:
            return "excluded"
        if digest in self._seen:
            return "duplicate"
        self._seen.add(digest)
        return None


def read_instructions(
    files: Sequence[str], field: str, limit: int | None, sieve: Sieve, gold_field: str | None = None
) -> tuple[list[Row], Counter[str]]:
    """Rows from files (JSON lines, TSV, Parquet), in their order, and counts: `kept`, or why one was left out.

    Args:
        gold_field: where the answers of people stand; the rows then have them as `gold`
    """
    counts: Counter[str] = Counter()
    rows: list[Row] = []
    for path in files:
        source = InputFile(path=path, language=ENGLISH, text_field=field, second_text_field=gold_field)
        for document in SourceReader(source):
            if limit is not None and len(rows) == limit:
                break
            text, *gold = document.segments
            reason = sieve.reason(text) if text else "empty"
            counts[reason or "kept"] += 1
            if reason is None:
                by = {"by": {"file": document.place}}
                rows.append({"id": instruction_id(text), "prompt": text, **({"gold": gold[0]} if gold else {}), **by})
    if not rows:
        raise UserError(f"--instructions={' '.join(files)}: no instruction can be used ({dict(counts)}); give others")
    return rows, counts


def write_self_instructions(
    stage: Stage,
    asked: SelfInstructions,
    chat_model: ChatModel,
    cluster: Cluster,
    *,
    seed: int,
    sieve: Callable[[], Sieve],
    check: LanguageCheck | None,
    progress: Progress,
) -> tuple[list[Row], Counter[str]]:
    """Sample rounds of instructions until enough can be used: rows, and counts of what was left out.

    The first that can be used, in the order of their numbers, are taken: the same on any number of ranks.
    """
    by = provenance(chat_model, seed, asked.generation)
    header = chat_model.chat.user_header_ids()
    round_size = min(_MOST_BATCHES, -(-asked.count // asked.batch_size)) * asked.batch_size
    jobs: list[Job] = []
    while True:
        jobs += [Job(f"self-{number:07d}", header) for number in range(len(jobs), len(jobs) + round_size)]
        texts = write_jobs(
            jobs, chat_model, stage, cluster, seed=seed, generation=asked.generation, batch_size=asked.batch_size,
            record=lambda job, text, ended: {"id": job.id, "prompt": text, "ended": ended}, progress=progress,
        )  # fmt: skip
        rows, counts = _taken((texts[job.id] for job in jobs), asked.count, sieve(), check, by)
        if len(rows) == asked.count:
            return rows, counts
        if len(jobs) >= _MOST_TRIES * asked.count + round_size:
            raise UserError(
                f"--self-instructions={asked.count}: of {len(jobs)} samples only {len(rows)} can be used ({dict(counts)}); "
                "ask for fewer, or give --instructions"
            )


def instruction_id(text: str) -> str:
    """By its words, so that files may be read in any order."""
    return normalized_hash(text)[:16]


def _taken(
    texts: Iterable[Row], count: int, sieve: Sieve, check: LanguageCheck | None, by: Row
) -> tuple[list[Row], Counter[str]]:
    rows: list[Row] = []
    counts: Counter[str] = Counter()
    for row in texts:
        if len(rows) == count:
            break
        text = row["prompt"]
        reason = why_rejected(text, row["ended"], ENGLISH, check) or sieve.reason(text)
        counts[reason or "kept"] += 1
        if reason is None:
            rows.append({"id": instruction_id(text), "prompt": text, "by": {**by, "sample": row["id"]}})
    return rows, counts
