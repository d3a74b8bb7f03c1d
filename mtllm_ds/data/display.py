"""What a person sees of data preparation: progress bars and tables."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mtllm_ds.data import build
from mtllm_ds.data.manifest import Manifest
from mtllm_ds.data.shards import verify_shards

_STDERR = Console(stderr=True)


class BuildDisplay:
    """A progress bar that appears with the first report (only then have the tokenizing processes been forked)."""

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

    def __enter__(self) -> "BuildDisplay":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._started:
            self._progress.stop()

    def report(self, progress: build.Progress) -> None:
        if not self._started:
            self._progress.start()
            self._started = True
        self._progress.update(
            self._task,
            total=progress.bytes_total,
            completed=progress.bytes_read,
            description=f"{progress.samples:,} samples, {progress.tokens / 1e6:,.1f}M tokens, {progress.shards} shards",
        )


def verify_with_progress(manifest: Manifest) -> None:
    """`verify_shards` behind a progress bar."""
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TextColumn("blocks"), TimeRemainingColumn())
    with Progress(*columns, console=_STDERR, disable=not _STDERR.is_terminal) as progress:
        task = progress.add_task("", total=manifest.num_blocks)
        verify_shards(manifest, lambda blocks: progress.advance(task, blocks))


def print_summary(manifest: Manifest) -> None:
    """A row a language: samples, tokens on both sides, bytes of text a token, share of documents cut."""
    table = Table(title=f"{manifest.storage.root}: {len(manifest.shards)} shards, {manifest.num_blocks} blocks")
    table.add_column("language")
    for heading in (
        "documents",
        "samples",
        "encoder tokens",
        "bytes/token",
        "LLM tokens",
        "bytes/token",
        "cut",
        "empty",
    ):
        table.add_column(heading, justify="right")
    for language, counts in manifest.statistics.items():
        table.add_row(
            language,
            f"{counts['documents']:,}",
            f"{counts['samples']:,}",
            f"{counts['encoder_tokens']:,}",
            f"{counts['text_bytes'] / max(1, counts['encoder_tokens']):.2f}",
            f"{counts['llm_tokens']:,}",
            f"{counts['text_bytes'] / max(1, counts['llm_tokens']):.2f}",
            f"{counts['cut'] / max(1, counts['documents']):.2%}",
            f"{counts['empty']:,}",
        )
    Console().print(table)
