"""Everything that decides the bytes of a data set of raw text."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from mtllm_ds.data.shards.manifest import TaskEntry
from mtllm_ds.data.text.cutting import LongDocuments
from mtllm_ds.data.text.tokenization import TextTokenizer, TokenizerSpec
from mtllm_ds.data.writing.sources import InputFile, OnError, SourceReader
from mtllm_ds.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """Everything that decides the bytes of a data set."""

    inputs: tuple[InputFile, ...]
    encoder: TokenizerSpec | None = None
    llm: TokenizerSpec | None = None
    """Whose tokenizers read the texts: both for a stack, one for a model that reads alone."""
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
    on_error: OnError = "fail"
    """A row that cannot be used: stop there, or leave it out and count it by reason."""

    def __post_init__(self) -> None:
        if not self.sides:
            raise UserError("--encoder, --llm: no tokenizer; give one or both")
        if self.token_pairs and len(self.sides) < 2:
            raise UserError("--token-pairs: compares two tokenizers; give --encoder and --llm, or leave it out")
        two_texts = any(source.llm_text_field is not None for source in self.inputs)
        if two_texts and len(self.sides) < 2:
            raise UserError("--llm-text-field: what the LLM reads beside an encoder; give --encoder and --llm")
        if two_texts and (self.token_pairs or self.long_documents == "split"):
            setting = "--token-pairs" if self.token_pairs else "--long-documents split"
            raise UserError(f"{setting}: needs one text for both sides; leave it or --llm-text-field out")
        if not self.inputs:
            raise UserError("--input: no file; give at least one")
        read = [(Path(source.path).resolve(), source.text_field) for source in self.inputs]
        for number, (source, own) in enumerate(zip(self.inputs, read, strict=True)):
            if own in read[:number]:
                raise UserError(f"--input={source.path}: given twice; leave one out")
        if not 1 <= self.block_samples <= 65_536:
            raise UserError(f"--block-samples={self.block_samples}: out of range; choose between 1 and 65536")
        if len({source.labels for source in self.inputs}) > 1:
            raise UserError(
                "--labels: the inputs have different labels; give --label-field and --labels for all or for none"
            )
        if len({source.second_text_field is None for source in self.inputs}) > 1 and self.inputs[0].labels:
            raise UserError("--labels: some labelled inputs are pairs and some are not; make two data sets of them")

    @property
    def sides(self) -> tuple[TokenizerSpec, ...]:
        """Encoder first."""
        return tuple(spec for spec in (self.encoder, self.llm) if spec is not None)

    @property
    def task(self) -> TaskEntry | None:
        """What the documents are labelled for, if they are."""
        first = self.inputs[0]
        if first.label_field is None:
            return None
        kind: Literal["classification", "pair_classification"] = (
            "classification" if first.second_text_field is None else "pair_classification"
        )
        return TaskEntry(first.label_field, kind, first.labels)


def settings_hash(
    settings: ShardSettings,
    readers: Sequence[SourceReader],
    sides: Sequence[TextTokenizer],
    exclusions: frozenset[bytes],
) -> str:
    decisive = asdict(settings) | {
        "input_bytes": [reader.bytes_total for reader in readers],
        "fingerprints": [side.fingerprint for side in sides],
        "exclusions": hashlib.sha256(b"".join(sorted(exclusions))).hexdigest(),
    }
    # Older data sets know nothing of these.
    if not settings.token_pairs:
        del decisive["token_pairs"]
    if settings.on_error == "fail":
        del decisive["on_error"]
    for source in decisive["inputs"]:
        if source["llm_text_field"] is None:
            del source["llm_text_field"]
        if not source["labels"]:
            del source["labels"]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
