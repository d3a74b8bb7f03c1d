"""From raw text to a finished data set: tokenize on all cores, write shards, survive being killed, write the manifest last.

Documents are gathered a language into *tasks* of a fixed size, numbered in order. Tasks are tokenized in parallel and taken back in
order, so the bytes do not depend on the number of processes. Whenever a shard is finished, a journal (`journal.py`) is left beside
it: how many tasks it covers, its rows of the index, and the samples that wait for the next block. A rerun goes on from there.
"""

import hashlib
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np

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
from mtllm_ds.data.shards.manifest import (
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    TaskEntry,
    TokenizerEntry,
    write_manifest,
)
from mtllm_ds.data.shards.tar_shards import ShardWriter
from mtllm_ds.data.text.cutting import LongDocuments
from mtllm_ds.data.text.tokenization import TextTokenizer, TokenizerSpec, load_text_tokenizer
from mtllm_ds.data.writing.documents import read_documents
from mtllm_ds.data.writing.filters import DocumentFilter, read_exclusions
from mtllm_ds.data.writing.journal import Journal, WrittenBlock
from mtllm_ds.data.writing.sources import Document, InputFile, SourceReader
from mtllm_ds.data.writing.token_pairs import COLUMN as TOKEN_PAIRS
from mtllm_ds.data.writing.token_pairs import token_pairs_column
from mtllm_ds.errors import UserError
from mtllm_ds.languages import FLORES_200

TASK_DOCUMENTS = 256
_TASKS_AHEAD = 4
"""Tasks under way a process: bounds memory."""


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """Everything that decides the bytes of a data set."""

    inputs: tuple[InputFile, ...]
    encoder: TokenizerSpec
    llm: TokenizerSpec
    long_documents: LongDocuments = "truncate"
    """A document over the length limit of a side: cut off its rest, or go on with it in further samples."""
    block_samples: int = 256
    """Samples a block, which is what the mixing draws."""
    shard_bytes: int = 64 << 20
    """A shard is closed once it is this large."""
    deduplicate: bool = False
    """Leave out documents that repeat an earlier one exactly."""
    exclusion_list: str | None = None
    """File of hashes (`filters.py`) of texts that must not enter, such as test sets."""
    token_pairs: bool = False
    """Store which words are one token on both sides (`token_pairs.py`)."""

    def __post_init__(self) -> None:
        two_texts = any(source.llm_text_field is not None for source in self.inputs)
        if two_texts and (self.token_pairs or self.long_documents == "split"):
            setting = "--token-pairs" if self.token_pairs else "--long-documents split"
            raise UserError(f"{setting} needs one text for both sides, leave it or --llm-text-field out")
        if not self.inputs:
            raise UserError("no input file, give at least one with --input")
        if not 1 <= self.block_samples <= 65_536:
            raise UserError(f"{self.block_samples} samples a block, choose between 1 and 65536")
        if len({source.label_field is None for source in self.inputs}) > 1:
            raise UserError("some inputs have labels and some have none, give a label field for all or for none")


@dataclass
class Progress:
    """How far the work is."""

    bytes_total: int
    bytes_read: int = 0
    """Of the input files, as they lie on disk."""
    samples: int = 0
    tokens: int = 0
    shards: int = 0


@dataclass(frozen=True)
class _Task:
    language: str
    documents: list[Document]
    left_out: Counter[str]
    """Documents of this language that were left out since its last task, by reason."""
    bytes_read: int


@dataclass
class Result:
    """Tokenized samples of one language, and what there is to count about them."""

    language: str
    samples: Block
    statistics: Counter[str]


def build_shards(
    settings: ShardSettings,
    output: Path,
    num_workers: int = 0,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Manifest:
    """Tokenize the inputs into a data set in `output`; a killed run is gone on with, a finished one left as it is.

    Args:
        num_workers: processes that tokenize; 0 for one a core.
        report: called now and then.

    Raises:
        UserError: bad input, or `output` holds a data set made with other settings.
    """
    readers = [SourceReader(source) for source in settings.inputs]
    encoder, llm = load_text_tokenizer(settings.encoder), load_text_tokenizer(settings.llm)
    for language in {source.language for source in settings.inputs} - {None}:
        encoder.check_tag(language)
        llm.check_tag(language)
    exclusions = read_exclusions(settings.exclusion_list) if settings.exclusion_list else frozenset()
    settings_hash = _settings_hash(settings, readers, encoder, llm, exclusions)
    if (output / MANIFEST_NAME).exists():
        return finished(output, settings_hash)
    progress = Progress(sum(reader.bytes_total for reader in readers))
    tasks = _tasks(readers, DocumentFilter(settings.deduplicate, exclusions))
    build = Build(output, settings_hash, encoder, llm, settings.block_samples, settings.shard_bytes, progress, report)
    written = build.write(lambda journal: _tokenized(settings, tasks, encoder, llm, num_workers, journal, progress))
    if not written:
        paths = ", ".join(source.path for source in settings.inputs)
        raise UserError(f"the inputs hold no text that may enter ({paths}), check the fields and the exclusion list")
    return Manifest.load(output)


@dataclass(frozen=True)
class Build:
    """A data set that is being written; what it is made of does not matter here."""

    output: Path
    settings_hash: str
    encoder: TextTokenizer
    llm: TextTokenizer
    block_samples: int
    shard_bytes: int
    progress: Progress
    report: Callable[[Progress], None]
    task: TaskEntry | None = None

    def write(self, results: Callable[[Journal], Iterator[Result]]) -> bool:
        """Write what `results` yields after what the journal covers, the manifest last; False (and none) if there is no sample."""
        self.output.mkdir(parents=True, exist_ok=True)
        with Journal(self.output, self.settings_hash) as journal:
            _write_shards(self, journal, results(journal))
            languages = [code for code in FLORES_200 if journal.statistics.get(code, Counter())["samples"]]
            if not languages:
                return False
            write_manifest(
                self.output,
                languages=languages,
                shards=journal.shards,
                tokenizers={"encoder": TokenizerEntry.of(self.encoder), "llm": TokenizerEntry.of(self.llm)},
                statistics={code: dict(sorted(counts.items())) for code, counts in sorted(journal.statistics.items())},
                index=journal.index(languages),
                settings_hash=self.settings_hash,
                task=self.task,
            )
            journal.remove()
        return True


def _settings_hash(
    settings: ShardSettings,
    readers: Sequence[SourceReader],
    encoder: TextTokenizer,
    llm: TextTokenizer,
    exclusions: frozenset[bytes],
) -> str:
    decisive = asdict(settings) | {
        "input_bytes": [reader.bytes_total for reader in readers],
        "fingerprints": [encoder.fingerprint, llm.fingerprint],
        "exclusions": hashlib.sha256(b"".join(sorted(exclusions))).hexdigest(),
    }
    # Older data sets know nothing of these.
    if not settings.token_pairs:
        del decisive["token_pairs"]
    for source in decisive["inputs"]:
        if source["llm_text_field"] is None:
            del source["llm_text_field"]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def finished(output: Path, settings_hash: str) -> Manifest:
    """The data set that is already there; raises `UserError` if it was made of something else."""
    manifest = Manifest.load(output)
    if manifest.settings_hash != settings_hash:
        raise UserError(
            f"'{output}' already holds a data set made with other settings or inputs, choose another folder"
        )
    manifest.check_shards()
    return manifest


def _tasks(readers: Sequence[SourceReader], document_filter: DocumentFilter) -> Iterator[_Task]:
    """Documents gathered a language, in an order that depends on the input alone."""
    waiting: dict[str, list[Document]] = {}
    left_out: dict[str, Counter[str]] = {}
    bytes_before = 0
    for reader in readers:
        is_empty = True
        for document in reader:
            is_empty = False
            language = document.language
            documents = waiting.setdefault(language, [])
            if reason := document_filter.reason(document):
                left_out.setdefault(language, Counter())[reason] += 1
                continue
            documents.append(document)
            if len(documents) == TASK_DOCUMENTS:
                bytes_read = bytes_before + reader.bytes_read
                yield _Task(language, waiting.pop(language), left_out.pop(language, Counter()), bytes_read)
        if is_empty:
            raise UserError(f"the input file '{reader.source.path}' holds no document, leave it out")
        bytes_before += reader.bytes_total
    for language in sorted(waiting):
        yield _Task(language, waiting[language], left_out.get(language, Counter()), bytes_before)


def _tokenize(encoder: TextTokenizer, llm: TextTokenizer, settings: ShardSettings, task: _Task) -> Result:
    samples = read_documents(encoder, llm, task.documents, task.language, settings.long_documents)
    flat = [(document, sample) for document, pieces in zip(task.documents, samples, strict=True) for sample in pieces]
    encoder_ids = Ragged.from_rows([sample.encoder_ids for _, sample in flat], ids_dtype(encoder.vocab_size))
    llm_ids = Ragged.from_rows([sample.llm_ids for _, sample in flat], ids_dtype(llm.vocab_size))
    columns: Block = {"encoder_ids": encoder_ids, "llm_ids": llm_ids}
    if settings.inputs[0].label_field is not None:
        columns["labels"] = np.array([document.label for document, _ in flat], np.int32)
    if settings.token_pairs:
        columns[TOKEN_PAIRS] = token_pairs_column((encoder, llm), [sample.segments for _, sample in flat])
    statistics = Counter(
        documents=len(task.documents) + task.left_out.total(),
        samples=len(flat),
        translations=sum(document.llm_text is not None for document in task.documents),
        cut=sum(pieces[-1].is_cut for pieces in samples),
        text_bytes=sum(len(segment.encode()) for _, sample in flat for segment in sample.segments),
        encoder_tokens=len(encoder_ids.values),
        llm_tokens=len(llm_ids.values),
    )
    if any(source.llm_text_field is not None for source in settings.inputs):
        read = [sample.segments if sample.llm_text is None else (sample.llm_text,) for _, sample in flat]
        statistics["llm_text_bytes"] = sum(len(text.encode()) for texts in read for text in texts)
    return Result(task.language, columns, statistics + task.left_out)


def _tokenized(
    settings: ShardSettings,
    tasks: Iterator[_Task],
    encoder: TextTokenizer,
    llm: TextTokenizer,
    num_workers: int,
    journal: Journal,
    progress: Progress,
) -> Iterator[Result]:
    """Results of all tasks that the journal does not cover, in order."""
    num_workers = num_workers or os.cpu_count() or 1
    tasks = islice(tasks, journal.tasks_done, None)
    if num_workers == 1:
        for task in tasks:
            progress.bytes_read = task.bytes_read
            yield _tokenize(encoder, llm, settings, task)
        return
    _share_with_workers(encoder, llm, settings)
    with get_context("fork").Pool(num_workers, _start_worker, (os.getpid(),)) as pool:
        under_way: deque = deque()
        for task in tasks:
            under_way.append((task.bytes_read, pool.apply_async(_tokenize_in_worker, (task,))))
            if len(under_way) == _TASKS_AHEAD * num_workers:
                progress.bytes_read, result = under_way.popleft()
                yield result.get()
        for progress.bytes_read, result in under_way:
            yield result.get()


_worker_state: tuple[TextTokenizer, TextTokenizer, ShardSettings] | None = None
"""Set just before the processes are forked, which inherit the loaded tokenizers."""


def _share_with_workers(encoder: TextTokenizer, llm: TextTokenizer, settings: ShardSettings) -> None:
    global _worker_state
    _worker_state = (encoder, llm, settings)


def _start_worker(parent: int) -> None:
    """A worker tokenizes on one core, and dies with its parent however that ends."""
    import signal
    import threading
    import time

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _tokenize_in_worker(task: _Task) -> Result:
    assert _worker_state is not None
    encoder, llm, settings = _worker_state
    return _tokenize(encoder, llm, settings, task)


class _OpenShard:
    """The shard that is being written, and its rows of the index."""

    def __init__(self, output: Path, number: int) -> None:
        self.writer = ShardWriter(output, f"shard-{number:06d}.tar")
        self._blocks: list[WrittenBlock] = []

    def write(self, language: str, samples: Block) -> None:
        data = encode_block(samples)
        offset = self.writer.write(f"{len(self._blocks):06d}-{language}", data, num_rows(samples))
        lengths = row_lengths(samples["encoder_ids"]), row_lengths(samples["llm_ids"])
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
            journal.tasks_done += 1
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
