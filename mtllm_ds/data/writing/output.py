"""Samples in, a data set out: shards, a journal that survives being killed, and last of all the manifest.

Whenever a shard is finished, a journal (`journal.py`) is left beside it: how many chunks of the input it covers, its rows of the
index, and the samples that wait for the next block. A rerun goes on from there.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtllm_ds.data.columns import ENCODER_IDS, LLM_IDS
from mtllm_ds.data.shards.blocks import (
    Block,
    Ragged,
    block_hash,
    concatenate_blocks,
    encode_block,
    ids_dtype,
    num_rows,
    row_lengths,
    slice_rows,
)
from mtllm_ds.data.shards.manifest import ChatEntry, Manifest, ShardEntry, TaskEntry, TokenizerEntry, write_manifest
from mtllm_ds.data.shards.tar_shards import ShardWriter
from mtllm_ds.data.text.tokenization import TextTokenizer
from mtllm_ds.data.writing.journal import Journal, WrittenBlock
from mtllm_ds.errors import UserError
from mtllm_ds.languages import FLORES_200


@dataclass
class Progress:
    """How far the work is."""

    bytes_total: int
    bytes_read: int = 0
    """Of the input files, as they lie on disk."""
    samples: int = 0
    tokens: int = 0
    shards: int = 0


@dataclass
class Result:
    """Tokenized samples of one language, and what there is to count about them."""

    language: str
    samples: Block
    statistics: Counter[str]
    digest: str = ""
    """Of the input so far (`chunks.py`)"""


@dataclass(frozen=True)
class Build:
    """A data set that is being written; what it is made of does not matter here."""

    output: Path
    settings_hash: str
    sides: Sequence[TextTokenizer]
    block_samples: int
    shard_bytes: int
    progress: Progress
    report: Callable[[Progress], None]
    task: TaskEntry | None = None
    chat: ChatEntry | None = None
    before_manifest: Callable[[], None] = lambda: None
    """Writes what lies beside the manifest"""

    def write(self, results: Callable[[Journal], Iterator[Result]]) -> bool:
        """Write what `results` yields after what the journal covers, the manifest last; False (and none) if there is no sample."""
        check_output(self.output)
        with _output_errors_told(self.output), Journal(self.output, self.settings_hash) as journal:
            _write_shards(self, journal, results(journal))
            languages = [code for code in FLORES_200 if journal.statistics.get(code, Counter())["samples"]]
            if not languages:
                return False
            self.before_manifest()
            write_manifest(
                self.output,
                languages=languages,
                shards=journal.shards,
                tokenizers={side.spec.side: TokenizerEntry.of(side) for side in self.sides},
                statistics={code: dict(sorted(counts.items())) for code, counts in sorted(journal.statistics.items())},
                index=journal.index(languages),
                settings_hash=self.settings_hash,
                task=self.task,
                chat=self.chat,
            )
            journal.remove()
        return True


def id_columns(sides: Sequence[TextTokenizer], samples: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Ragged]:
    """Columns of the ids of samples, given by side; a side that reads nothing has rows without a token."""
    dtypes: dict[str, np.dtype] = {side.spec.side: ids_dtype(side.vocab_size) for side in sides}
    return {
        name: Ragged.from_rows(
            [np.asarray(ids.get(side, ()), np.int64) for ids in samples], dtypes.get(side, ids_dtype(1))
        )
        for side, name in (("encoder", ENCODER_IDS), ("llm", LLM_IDS))
    }


def finished(output: Path, settings_hash: str) -> Manifest:
    """The data set that is already there; raises `UserError` if it was made of something else."""
    manifest = Manifest.load(output)
    if manifest.settings_hash != settings_hash:
        raise UserError(
            f"--output={output}: already holds a data set made with other settings or inputs; choose another folder"
        )
    manifest.check_shards()
    return manifest


def check_output(output: Path) -> None:
    """Make the folder and write a byte there, before any work.

    Raises:
        UserError: it cannot be made or written to.
    """
    with _output_errors_told(output):
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=output, prefix=".writable-") as probe:  # ranks ask at the same time
            probe.write(b".")


@contextmanager
def _output_errors_told(output: Path) -> Iterator[None]:
    """Turns a full disk, a read-only folder and the like into one line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--output={output}: cannot be written ({error.strerror or error}); make room or choose another folder, and run it "
            "again: finished shards are kept"
        ) from error


class _OpenShard:
    """The shard that is being written, and its rows of the index."""

    def __init__(self, output: Path, number: int) -> None:
        self.writer = ShardWriter(output, f"shard-{number:06d}.tar")
        self._blocks: list[WrittenBlock] = []

    def write(self, language: str, samples: Block) -> None:
        data = encode_block(samples)
        offset = self.writer.write(f"{len(self._blocks):06d}-{language}", data, num_rows(samples))
        lengths = row_lengths(samples[ENCODER_IDS]), row_lengths(samples[LLM_IDS])
        self._blocks.append(WrittenBlock(offset, len(data), block_hash(data), language, *lengths))

    def close(self) -> tuple[ShardEntry, list[WrittenBlock]]:
        return self.writer.close(), self._blocks


def _write_shards(
    build: Build,
    journal: Journal,
    results: Iterator[Result],
) -> None:
    """Cut the samples of each language into blocks of equal size and write them; only a language's last may be smaller."""
    progress, shard = build.progress, None
    try:
        for result in results:
            journal.chunks_done += 1
            journal.digest = result.digest
            journal.statistics.setdefault(result.language, Counter()).update(result.statistics)
            full, journal.pending[result.language] = _cut_blocks(
                [*journal.pending.get(result.language, ()), result.samples], build.block_samples
            )
            for samples in full:
                shard = shard or _OpenShard(build.output, len(journal.shards))
                shard.write(result.language, samples)
            if shard is not None and shard.writer.bytes_written >= build.shard_bytes:
                journal.add_shard(*shard.close())
                shard = None
            progress.samples += result.statistics["samples"]
            progress.tokens += result.statistics["encoder_tokens"] + result.statistics["llm_tokens"]
            progress.shards = len(journal.shards)
            build.report(progress)
        for language in sorted(journal.pending):
            if rest := journal.pending[language]:
                shard = shard or _OpenShard(build.output, len(journal.shards))
                shard.write(language, concatenate_blocks(rest))
        journal.pending.clear()
        if shard is not None:
            journal.add_shard(*shard.close())
    except BaseException:
        if shard is not None:
            shard.writer.abort()
        raise


def _cut_blocks(pending: list[Block], block_samples: int) -> tuple[list[Block], list[Block]]:
    """Full blocks from the front of `pending`, and what is left of it."""
    if sum(map(num_rows, pending)) < block_samples:
        return [], [block for block in pending if num_rows(block)]
    merged = concatenate_blocks(pending)
    end = num_rows(merged) // block_samples * block_samples
    full = [slice_rows(merged, start, start + block_samples) for start in range(0, end, block_samples)]
    return full, [slice_rows(merged, end, num_rows(merged))] if end < num_rows(merged) else []
