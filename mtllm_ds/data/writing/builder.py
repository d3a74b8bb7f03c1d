"""From raw text to a finished data set: tokenize on all cores, write shards, survive being killed, write the manifest last.

Documents are gathered by language into chunks of a fixed size (`chunks.py`), numbered in order. Chunks are tokenized in parallel
and taken back in order, so the bytes do not depend on the number of processes.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from mtllm_ds.data.columns import ENCODER_IDS, LABEL, LLM_IDS, TOKEN_PAIRS
from mtllm_ds.data.shards.blocks import Block
from mtllm_ds.data.shards.manifest import MANIFEST_NAME, Manifest
from mtllm_ds.data.text.tokenization import TextTokenizer, load_text_tokenizer
from mtllm_ds.data.writing.chunks import Chunk, chunks_of
from mtllm_ds.data.writing.documents import read_documents
from mtllm_ds.data.writing.filters import DocumentFilter, read_exclusions
from mtllm_ds.data.writing.inputs import check_inputs, note_inputs
from mtllm_ds.data.writing.journal import Journal
from mtllm_ds.data.writing.output import Build, Progress, Result, check_output, finished, id_columns
from mtllm_ds.data.writing.settings import ShardSettings, settings_hash
from mtllm_ds.data.writing.sources import SourceReader
from mtllm_ds.data.writing.token_pairs import token_pairs_column
from mtllm_ds.data.writing.workers import map_in_order, num_usable_cores
from mtllm_ds.errors import UserError


def build_shards(
    settings: ShardSettings,
    output: Path,
    num_workers: int = 0,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Manifest:
    """Tokenize the inputs into a data set in `output`; a killed run goes on where it was, a finished one is left as it is.

    Args:
        num_workers: processes that tokenize; 0 for one per usable core.
        report: called now and then.

    Raises:
        UserError: bad input, or `output` holds a data set made with other settings.
    """
    readers = [SourceReader(source, settings.on_error) for source in settings.inputs]
    sides = [load_text_tokenizer(spec) for spec in settings.sides]
    for source in settings.inputs:
        if source.language is not None:
            check_tag(sides, source.language)
    exclusions = read_exclusions(settings.exclusion_list) if settings.exclusion_list else frozenset()
    build = Build(
        output=output,
        settings_hash=settings_hash(settings, readers, sides, exclusions),
        sides=sides,
        block_samples=settings.block_samples,
        shard_bytes=settings.shard_bytes,
        progress=Progress(sum(reader.bytes_total for reader in readers)),
        report=report,
        task=settings.task,
        before_manifest=lambda: note_inputs(output, readers),
    )
    document_filter = DocumentFilter(settings.deduplicate, exclusions)
    return build_from(readers, build, document_filter, partial(_tokenize, sides, settings), num_workers)


def build_from(
    readers: Sequence[SourceReader],
    build: Build,
    document_filter: DocumentFilter,
    tokenize: Callable[[Chunk], Result],
    num_workers: int,
) -> Manifest:
    """The data set of what the readers bring, whatever their documents are; `tokenize` makes samples of them, in processes."""
    output = build.output
    if os.path.exists(output / MANIFEST_NAME):  # False for names that no path can have, which check_output tells
        manifest = finished(output, build.settings_hash)
        check_inputs(output, readers)
        return manifest
    for reader in readers:
        reader.check()
    check_output(output)
    chunks = chunks_of(readers, document_filter, partial(check_tag, build.sides))
    written = build.write(lambda journal: _tokenized(tokenize, chunks, num_workers, journal, build.progress, output))
    if not written:
        paths = ", ".join(reader.source.path for reader in readers)
        raise UserError(f"--input={paths}: no text there that may enter; check the fields and the exclusion list")
    return Manifest.load(output)


def check_tag(sides: Sequence[TextTokenizer], language: str) -> None:
    """Refuse a language that a side has no tag for."""
    for side in sides:
        side.check_tag(language)


def _tokenized(
    tokenize: Callable[[Chunk], Result],
    chunks: Iterator[Chunk],
    num_workers: int,
    journal: Journal,
    progress: Progress,
    output: Path,
) -> Iterator[Result]:
    """Results of all chunks that the journal does not cover, in order."""
    covered = deque((chunk.digest for chunk in islice(chunks, journal.chunks_done)), maxlen=1)
    if journal.chunks_done and list(covered) != [journal.digest]:
        raise UserError(
            f"--output={output}: an input has changed since its first shards were written; remove the folder and start anew, "
            "or choose another"
        )
    for chunk, result in map_in_order(tokenize, chunks, num_workers or num_usable_cores()):
        progress.bytes_read = chunk.bytes_read
        yield result


def _tokenize(sides: Sequence[TextTokenizer], settings: ShardSettings, chunk: Chunk) -> Result:
    samples = read_documents(sides, chunk.documents, chunk.language, settings.long_documents) if chunk.documents else []
    flat = [(document, sample) for document, pieces in zip(chunk.documents, samples, strict=True) for sample in pieces]
    ids = id_columns(sides, [sample.ids for _, sample in flat])
    columns: Block = dict(ids)
    if settings.task is not None:
        columns[LABEL] = np.array([document.label for document, _ in flat], np.int64)
    if settings.token_pairs:
        columns[TOKEN_PAIRS] = token_pairs_column(sides, [sample.segments for _, sample in flat])
    statistics = Counter(
        documents=len(chunk.documents) + chunk.left_out.total(),
        samples=len(flat),
        translations=sum(document.llm_text is not None for document in chunk.documents),
        cut=sum(pieces[-1].is_cut for pieces in samples),
        text_bytes=sum(len(segment.encode()) for _, sample in flat for segment in sample.segments),
        encoder_tokens=len(ids[ENCODER_IDS].values),
        llm_tokens=len(ids[LLM_IDS].values),
    )
    if any(source.llm_text_field is not None for source in settings.inputs):
        read = [sample.segments if sample.llm_text is None else (sample.llm_text,) for _, sample in flat]
        statistics["llm_text_bytes"] = sum(len(text.encode()) for texts in read for text in texts)
    return Result(chunk.language, columns, statistics + chunk.left_out, chunk.digest)
