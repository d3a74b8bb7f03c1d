"""What a person sees of data preparation: progress bars and tables."""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mtllm_ds.config.names import resolve_model_name
from mtllm_ds.data.columns import RECORD, RESPONSE_START
from mtllm_ds.data.shards.dialogue_view import dialogue_lines, record_lines
from mtllm_ds.data.shards.manifest import Manifest, TokenizerEntry
from mtllm_ds.data.shards.tar_shards import read_block, verify_shards
from mtllm_ds.data.writing import output
from mtllm_ds.errors import UserError

LEFT_OUT = ("empty", "duplicate", "excluded")
SKIPPED = (
    "not_utf8", "not_json", "no_field", "no_text", "unknown_language", "no_tag", "bad_label", "unknown_field", "bad_weight",
    "refused_messages", "long_prompt", "special_token",
)  # fmt: skip
"""Reasons of `--on-error skip`, and those of dialogues: shown where they occurred"""

_STDERR = Console(stderr=True)
_LOG_SECONDS = 60
"""Between lines where there is no terminal for a progress bar."""


class BuildDisplay:
    """A progress bar that appears with the first report, after the tokenizing processes were forked; in a log, a line a minute."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=_STDERR, disable=not _STDERR.is_terminal)
        self._task = self._progress.add_task("tokenizing", total=None)
        self._started = False
        self._logged = time.monotonic()

    def __enter__(self) -> "BuildDisplay":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._started:
            self._progress.stop()

    def report(self, progress: output.Progress) -> None:
        if not self._started:
            self._progress.start()
            self._started = True
        done = f"{progress.samples:,} samples, {progress.tokens / 1e6:,.1f}M tokens, {progress.shards} shards"
        self._progress.update(self._task, total=progress.bytes_total, completed=progress.bytes_read, description=done)
        if not _STDERR.is_terminal and time.monotonic() - self._logged > _LOG_SECONDS:
            self._logged = time.monotonic()
            share = progress.bytes_read / max(1, progress.bytes_total)
            print(f"{share:.0%} of the input read: {done}", file=sys.stderr, flush=True)


class ReadingDisplay:
    """A progress bar over the bytes of text files that are read; in a log, a line a minute."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=_STDERR, disable=not _STDERR.is_terminal)
        self._task = self._progress.add_task("", total=None)
        self._logged = time.monotonic()

    def __enter__(self) -> "ReadingDisplay":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def report(self, what: str, bytes_read: int, bytes_total: int) -> None:
        self._progress.update(self._task, description=what, total=bytes_total, completed=bytes_read)
        if not _STDERR.is_terminal and time.monotonic() - self._logged > _LOG_SECONDS:
            self._logged = time.monotonic()
            print(f"{what}: {bytes_read / max(1, bytes_total):.0%} of the input", file=sys.stderr, flush=True)


class CountDisplay:
    """A progress bar over things to do; in a log, a line a minute. Shows nothing if `quiet`."""

    def __init__(self, description: str, unit: str, quiet: bool = False) -> None:
        """`unit`: what is counted, in the log's lines"""
        columns = (TextColumn(description), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._quiet, self._unit = quiet, unit
        self._progress = Progress(*columns, console=_STDERR, disable=quiet or not _STDERR.is_terminal)
        self._task = self._progress.add_task("", total=None)
        self._logged = time.monotonic()

    def __enter__(self) -> "CountDisplay":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def advance(self, done: int, total: int) -> None:
        self._progress.update(self._task, total=total, completed=done)
        if not self._quiet and not _STDERR.is_terminal and time.monotonic() - self._logged > _LOG_SECONDS:
            self._logged = time.monotonic()
            print(f"{done} of {total} {self._unit}", file=sys.stderr, flush=True)


def verify_with_progress(manifest: Manifest) -> None:
    """`verify_shards` behind a progress bar."""
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TextColumn("blocks"), TimeRemainingColumn())
    with Progress(*columns, console=_STDERR, disable=not _STDERR.is_terminal) as progress:
        task = progress.add_task("", total=manifest.num_blocks)
        verify_shards(manifest, lambda blocks: progress.advance(task, blocks))


def print_summary(manifest: Manifest) -> None:
    """A row per language: samples, tokens on both sides, bytes of text a token, share of documents cut, documents left out."""
    reasons = (*LEFT_OUT, *(r for r in SKIPPED if any(r in counts for counts in manifest.statistics.values())))
    table = Table(title=f"{manifest.storage.root}: {len(manifest.shards)} shards, {manifest.num_blocks} blocks")
    table.add_column("language", no_wrap=True)
    for heading in (
        "documents",
        "samples",
        "encoder tokens",
        "bytes per token",
        "LLM tokens",
        "bytes per token",
        "cut",
        *reasons,
    ):
        table.add_column(heading, justify="right")
    rows = dict(manifest.statistics)
    if len(rows) > 1:
        rows["all"] = dict(sum((Counter(counts) for counts in rows.values()), Counter()))
    for language, given in rows.items():
        counts = Counter(given)
        table.add_row(
            language,
            f"{counts['documents']:,}",
            f"{counts['samples']:,}",
            f"{counts['encoder_tokens']:,}",
            _per_token(counts["text_bytes"], counts["encoder_tokens"]),
            f"{counts['llm_tokens']:,}",
            _per_token(counts["llm_text_bytes"] or counts["text_bytes"], counts["llm_tokens"]),
            f"{counts['cut'] / max(1, counts['documents']):.2%}",
            *(f"{counts[reason]:,}" for reason in reasons),
        )
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _per_token(num_bytes: int, num_tokens: int) -> str:
    """Of a side that reads nothing there is none."""
    return f"{num_bytes / num_tokens:.2f}" if num_tokens else "-"


def print_samples(manifest: Manifest, block: int, count: int) -> None:
    """The first samples of a block: ids of both sides, and the text they spell where the tokenizers are at hand."""
    if not 0 <= block < manifest.num_blocks:
        raise UserError(
            f"--block={block}: there is none such; '{manifest.storage.root}' holds blocks 0 to {manifest.num_blocks - 1}"
        )
    columns = read_block(manifest, block)
    tokenizers = {side: _tokenizer(entry) for side, entry in manifest.tokenizers.items()}
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(manifest.describe_block(block))
    for row in range(min(count, len(columns["llm_ids"]))):
        console.print(f"\nsample {int(manifest.first_row[block]) + row}")
        if RESPONSE_START in columns:
            lines = dialogue_lines(columns, row, {side: _pieces(found) for side, found in tokenizers.items()})
            if RECORD in columns:
                lines += record_lines(json.loads(bytes(columns[RECORD][row])))
            for line in lines:
                console.print(f"  {line}")
            continue
        for name, column in columns.items():
            side = name.removesuffix("_ids")
            values = column[row]
            console.print(f"  {name}: {values.tolist()}")
            if side in tokenizers:
                found = tokenizers[side]
                console.print(f"    {found if isinstance(found, str) else found.decode(values.tolist())!r}")


def _pieces(tokenizer: Any) -> Callable[[list[int]], list[str]]:
    return lambda ids: [tokenizer] if isinstance(tokenizer, str) else [str(tokenizer.decode([token])) for token in ids]


def _tokenizer(entry: TokenizerEntry) -> Any:
    """The tokenizer, or a word where it is not at hand."""
    from transformers import AutoTokenizer

    try:
        # False: transformers would ask on the terminal whether to run a tokenizer's own code.
        return AutoTokenizer.from_pretrained(
            resolve_model_name(entry.name), revision=entry.revision, trust_remote_code=False
        )
    except (OSError, ValueError):
        return f"(the tokenizer '{entry.name}' is not at hand)"
