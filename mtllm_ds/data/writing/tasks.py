"""Shards of a task's labelled items: the columns of any shards, the label, and for multiple choice where each choice stands.

    label                  (rows,) position in the task's labels; of multiple choice the number of the right option, from 0
    encoder_choice_spans   ragged (options, 2): [start, end) of each choice's tokens in `encoder_ids`
    llm_choice_spans       the same in `llm_ids`

Both sides read the same text, cut where the first of them is full.
"""

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mtllm_ds.data.columns import CHOICE_SPANS, ENCODER_IDS, LABEL, LLM_IDS, TOKEN_PAIRS
from mtllm_ds.data.shards.blocks import Block, Ragged
from mtllm_ds.data.shards.manifest import MANIFEST_NAME, Manifest, TaskEntry
from mtllm_ds.data.text.task_encoding import FittedItem, fit_item
from mtllm_ds.data.text.tokenization import TextTokenizer, TokenizerSpec, load_text_tokenizer
from mtllm_ds.data.writing.chunks import CHUNK_DOCUMENTS
from mtllm_ds.data.writing.journal import Journal
from mtllm_ds.data.writing.output import Build, Progress, Result, finished, id_columns
from mtllm_ds.data.writing.token_pairs import token_pairs_column
from mtllm_ds.errors import UserError


@dataclass(frozen=True)
class TaskRow:
    """One labelled item."""

    segments: tuple[str, ...]
    options: tuple[str, ...]
    label: int
    """Position in the task's labels"""
    language: str
    """The tag it is read with, a FLORES-200 code"""


@dataclass(frozen=True, kw_only=True)
class TaskShardSettings:
    """Everything but the rows that decides the bytes of a data set."""

    task: TaskEntry
    encoder: TokenizerSpec | None = None
    llm: TokenizerSpec | None = None
    """Whose tokenizers read the items: both for a stack, one for a model that reads alone."""
    block_samples: int = 32
    """Small blocks: training draws whole blocks, and a task has few items."""
    shard_bytes: int = 64 << 20
    token_pairs: bool = False
    """Store which words are one token on both sides (`token_pairs.py`)."""


def build_task_shards(
    rows: Sequence[TaskRow],
    settings: TaskShardSettings,
    output: Path,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Manifest:
    """Tokenize labelled items into a data set in `output`, in an order shuffled once; run again, a killed one resumes.

    Raises:
        UserError: a tokenizer has no tag for a language, an item's choices are too long, or `output` holds something else.
    """
    sides = [load_text_tokenizer(spec) for spec in (settings.encoder, settings.llm) if spec is not None]
    if not sides:
        raise UserError("--encoder, --llm: no tokenizer; give one or both")
    if settings.token_pairs and len(sides) < 2:
        raise UserError("--token-pairs: compares two tokenizers; give --encoder and --llm, or leave it out")
    for language in {row.language for row in rows}:
        for side in sides:
            side.check_tag(language)
    decisive = {
        "settings": asdict(settings),
        "rows": hashlib.sha256(json.dumps([asdict(row) for row in rows]).encode()).hexdigest(),
        "fingerprints": [side.fingerprint for side in sides],
    }
    settings_hash = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    if os.path.exists(output / MANIFEST_NAME):
        return finished(output, settings_hash)
    progress = Progress(len(rows))
    build = Build(
        output,
        settings_hash,
        sides,
        settings.block_samples,
        settings.shard_bytes,
        progress,
        report,
        settings.task,
    )
    parts = _parts(rows)
    written = build.write(lambda journal: _tokenized(parts, settings, sides, journal, progress))
    if not written:
        raise UserError(f"task {settings.task.name}: no item has text; check its fields")
    return Manifest.load(output)


def _parts(rows: Sequence[TaskRow]) -> list[list[TaskRow]]:
    """Rows of one language each, shuffled: files are often sorted, and a block is one lane's food for many steps."""
    parts = []
    for language in sorted({row.language for row in rows}):
        own = [row for row in rows if row.language == language]
        random.Random(0).shuffle(own)
        parts += [own[start : start + CHUNK_DOCUMENTS] for start in range(0, len(own), CHUNK_DOCUMENTS)]
    return parts


def _tokenized(
    parts: Sequence[Sequence[TaskRow]],
    settings: TaskShardSettings,
    sides: Sequence[TextTokenizer],
    journal: Journal,
    progress: Progress,
) -> Iterator[Result]:
    """Results of all parts that the journal does not cover."""
    for number, part in enumerate(parts):
        progress.bytes_read += len(part)
        if number >= journal.chunks_done:
            yield _tokenize(part, settings, sides)


def _tokenize(rows: Sequence[TaskRow], settings: TaskShardSettings, sides: Sequence[TextTokenizer]) -> Result:
    names = [side.spec.side for side in sides]
    lengths = [side.spec.max_length for side in sides]
    kept = [row for row in rows if any(segment.strip() for segment in row.segments)]
    items = [fit_item(sides, row.segments, row.options, row.language, lengths) for row in kept]
    ids = id_columns(sides, [{name: own.ids for name, own in zip(names, item.sides, strict=True)} for item in items])
    columns: Block = dict(ids)
    columns[LABEL] = np.array([row.label for row in kept], np.int64)
    if settings.task.type == "multiple_choice":
        for i, name in enumerate(names):
            columns[CHOICE_SPANS[name]] = _spans(items, i)
    if settings.token_pairs:
        columns[TOKEN_PAIRS] = token_pairs_column(sides, [item.texts for item in items])
    texts = [text for row, item in zip(kept, items, strict=True) for text in (*item.segments, *row.options)]
    statistics = Counter(
        documents=len(rows),
        samples=len(items),
        empty=len(rows) - len(items),
        cut=sum(item.is_cut for item in items),
        text_bytes=sum(len(text.encode()) for text in texts),
        encoder_tokens=len(ids[ENCODER_IDS].values),
        llm_tokens=len(ids[LLM_IDS].values),
    )
    return Result(rows[0].language, columns, statistics)


def _spans(items: Sequence[FittedItem], side: int) -> Ragged:
    rows = [np.array(item.sides[side].choice_spans, np.int32).reshape(-1, 2) for item in items]
    return Ragged.from_rows(rows, np.int32) if rows else Ragged(np.empty((0, 2), np.int32), np.zeros(1, np.int64))
