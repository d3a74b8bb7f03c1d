"""What a data set holds: `manifest.json` names shards, languages and tokenizers; `index.bin` knows every block and sample.

The index is one deflated block (`blocks.py`) with a row a block: where its bytes lie, their hash, its language, and both lengths
of each of its samples, because the order of training is decided from lengths alone, without opening a shard.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mtllm_ds import atomic
from mtllm_ds.data.shards.blocks import (
    Block,
    BlockError,
    Ragged,
    concatenate_blocks,
    decode_block,
    encode_block,
    narrowest_unsigned,
)
from mtllm_ds.data.shards.index_map import map_index
from mtllm_ds.data.shards.storage import (
    UNKNOWN_SIZE,
    LocalStorage,
    RemoteSettings,
    Storage,
    StorageError,
    check_member_name,
    open_storage,
)
from mtllm_ds.data.text.tokenization import TextTokenizer
from mtllm_ds.errors import UserError

MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.bin"
FORMAT = "mtllm-ds shards"
VERSION = 1


@dataclass(frozen=True)
class ShardEntry:
    """A tar file of blocks."""

    name: str
    bytes: int
    sha256: str
    blocks: int
    samples: int


class ShardFault(NamedTuple):
    """What is wrong with a shard, seen from outside."""

    reason: str
    num_bytes: int
    """That are there"""


@dataclass(frozen=True)
class TokenizerEntry:
    """The tokenizer of one side, as far as a reader of the ids must know it."""

    name: str
    revision: str | None
    family: str
    template: str
    fingerprint: str
    vocab_size: int
    pad_id: int
    max_length: int

    @classmethod
    def of(cls, tokenizer: TextTokenizer) -> "TokenizerEntry":
        spec = tokenizer.spec
        return cls(
            spec.name,
            spec.revision,
            tokenizer.family,
            str(tokenizer.template),
            tokenizer.fingerprint,
            tokenizer.vocab_size,
            tokenizer.pad_id,
            spec.max_length,
        )


@dataclass(frozen=True)
class TaskEntry:
    """The task that the samples are labelled for."""

    name: str
    type: Literal["classification", "pair_classification", "multiple_choice"]
    labels: tuple[str, ...]
    """Column `label` holds positions in it; of multiple choice, where these are the options' numbers, the right option from 0"""


@dataclass(frozen=True)
class ChatEntry:
    """How the samples, which are dialogues, were put into words."""

    template: str | None
    """Chat template; None for plain text"""
    system_prompt: str | None
    end_id: int
    """The token that ends a response"""


@dataclass(frozen=True)
class BlockIndex:
    """A row a block, in order of shard and offset."""

    shard: np.ndarray
    """(blocks,) position in the manifest's list of shards"""
    offset: np.ndarray
    """(blocks,) first byte of the block inside the shard"""
    size_bytes: np.ndarray
    """(blocks,)"""
    sha256: np.ndarray
    """(blocks, 32) uint8"""
    language: np.ndarray
    """(blocks,) position in the manifest's list of languages"""
    encoder_lengths: Ragged
    """(blocks, samples): tokens of each sample on the encoder's side, in the narrowest unsigned type"""
    llm_lengths: Ragged
    """(blocks, samples)"""

    def __len__(self) -> int:
        return len(self.shard)

    def encode(self) -> bytes:
        columns = {name: getattr(self, name) for name in ("shard", "offset", "size_bytes", "language")}
        columns = {name: narrowest_unsigned(column) for name, column in columns.items()}
        lengths = {
            name: Ragged(narrowest_unsigned(ragged.values), ragged.offsets)
            for name, ragged in (("encoder_lengths", self.encoder_lengths), ("llm_lengths", self.llm_lengths))
        }
        return encode_block({**columns, "sha256": self.sha256, **lengths}, deflate=True)

    @classmethod
    def decode(cls, data: bytes) -> "BlockIndex":
        columns: dict[str, Any] = index_columns(data)
        return cls(**columns)

    @classmethod
    def concatenate(cls, parts: Sequence["BlockIndex"]) -> "BlockIndex":
        dense: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("shard", "offset", "size_bytes", "sha256", "language")
        }
        lengths: list[Block] = [
            {"encoder_lengths": part.encoder_lengths, "llm_lengths": part.llm_lengths} for part in parts
        ]
        ragged: dict[str, Any] = concatenate_blocks(lengths)
        return cls(**dense, **ragged)


def index_columns(data: bytes) -> Block:
    """Columns of an encoded index. What is per block becomes int64; the lengths, one per sample, stay as narrow as they are."""
    columns: dict[str, Any] = decode_block(data)
    return columns | {name: columns[name].astype(np.int64) for name in ("shard", "offset", "size_bytes", "language")}


@dataclass(frozen=True)
class Manifest:
    """A data set, loaded. Rows (samples) are numbered through all blocks in order."""

    storage: Storage
    hash: str
    """sha256 of the bytes of `manifest.json`, which holds the index's hash, which holds every block's"""
    languages: tuple[str, ...]
    shards: tuple[ShardEntry, ...]
    tokenizers: dict[str, TokenizerEntry]
    """by side: `encoder`, `llm`"""
    statistics: dict[str, dict[str, int]]
    """by language: documents, samples, cut, empty, ..., text_bytes, encoder_tokens, llm_tokens; with translations, their number and
    llm_text_bytes"""
    index: BlockIndex
    settings_hash: str
    task: TaskEntry | None = None
    """None: the samples are plain text"""
    chat: ChatEntry | None = None
    """None: the samples are no dialogues"""

    @classmethod
    def load(cls, location: str | Path, remote: RemoteSettings | None = None) -> "Manifest":
        """Read the manifest and index of the data set in a folder or below a URL (or of its `manifest.json`).

        Raises:
            UserError: there is none, it is damaged, or another version wrote it.
        """
        root = str(location).removesuffix(MANIFEST_NAME).rstrip("/") or "."
        storage = LocalStorage(root) if isinstance(location, Path) else open_storage(root, remote)
        try:
            raw = storage.read(MANIFEST_NAME)
        except StorageError as error:
            raise UserError(
                f"data set {root}: there is none ({error}); give a folder that mtllm-ds prepare shards has finished"
            ) from error
        try:
            content = json.loads(raw)
            if content["format"] != FORMAT or content["version"] != VERSION:
                raise UserError(
                    f"data set {root}: of version {content['version']}, this code reads {VERSION}; prepare it anew"
                )
            cache = Path((remote or RemoteSettings()).cache_folder).expanduser()
            columns: dict[str, Any] = map_index(
                lambda: index_columns(_read_index(storage, content["index"])), content["index"], cache
            )
            return cls(
                storage=storage,
                hash=hashlib.sha256(raw).hexdigest(),
                languages=tuple(content["languages"]),
                shards=tuple(ShardEntry(**shard) for shard in content["shards"]),
                tokenizers={side: TokenizerEntry(**entry) for side, entry in content["tokenizers"].items()},
                statistics=content["statistics"],
                index=BlockIndex(**columns),
                settings_hash=content["settings_hash"],
                task=_task_entry(content.get("task")),
                chat=ChatEntry(**content["chat"]) if "chat" in content else None,
            )
        except StorageError as error:
            raise UserError(f"data set {root}: not whole ({error}); copy or prepare it anew") from error
        except (KeyError, TypeError, BlockError, json.JSONDecodeError) as error:
            raise UserError(f"data set {root}: the manifest is damaged ({error!r}); copy or prepare it anew") from error

    @cached_property
    def first_row(self) -> np.ndarray:
        """(blocks + 1,) number of the first row of each block; the last is the number of rows."""
        return self.index.encoder_lengths.offsets

    @property
    def num_samples(self) -> int:
        return int(self.first_row[-1])

    @property
    def num_blocks(self) -> int:
        return len(self.index)

    @property
    def encoder_lengths(self) -> np.ndarray:
        """(samples,)"""
        return self.index.encoder_lengths.values

    @property
    def llm_lengths(self) -> np.ndarray:
        """(samples,)"""
        return self.index.llm_lengths.values

    @cached_property
    def samples_of_language(self) -> np.ndarray:
        """(languages,)"""
        counts = np.zeros(len(self.languages), np.int64)
        np.add.at(counts, self.index.language, np.diff(self.first_row))
        return counts

    def blocks_of_rows(self, rows: np.ndarray) -> np.ndarray:
        """(n,) block that each row lies in."""
        return np.searchsorted(self.first_row, rows, side="right") - 1

    def describe_block(self, block: int) -> str:
        """Where a block lies, for messages."""
        shard = self.shards[int(self.index.shard[block])]
        start = int(self.index.offset[block])
        end = start + int(self.index.size_bytes[block])
        return f"block {block} ({self.languages[int(self.index.language[block])]}), shard '{shard.name}', bytes {start}-{end}"

    def tokenizer_of(self, side: str) -> TokenizerEntry:
        """The tokenizer whose ids the shards hold on a side; `UserError` where they hold none."""
        if side not in self.tokenizers:
            raise UserError(f"data set {self.storage.root}: holds no ids of an {side}; prepare it with --{side}")
        return self.tokenizers[side]

    def check_tokenizer(self, tokenizer: TextTokenizer) -> None:
        """Refuse a tokenizer that would have produced other ids than those stored.

        Raises:
            UserError: its fingerprint differs from the manifest's.
        """
        side = tokenizer.spec.side
        entry = self.tokenizer_of(side)
        if tokenizer.fingerprint != entry.fingerprint:
            raise UserError(
                f"data set {self.storage.root}: the {side}'s tokenizer '{tokenizer.spec.name}' is not the one the shards were made "
                f"with ('{entry.name}', template '{entry.template}'); use that one or prepare the shards anew"
            )

    def check_shards(self) -> None:
        """Refuse shards that are missing, of a wrong size or listed twice, without reading them; looks once.

        Raises:
            UserError: naming the first such shard.
        """
        for fault in self.shard_faults.values():
            raise UserError(f"data set {self.storage.root}: {fault.reason}; copy or prepare it anew")

    def trust_shards(self) -> None:
        """Let `check_shards` take it that another process has looked."""
        self.__dict__["shard_faults"] = {}

    @cached_property
    def shard_faults(self) -> dict[int, "ShardFault"]:
        """Shards that are missing or of a wrong size, by position; looks once.

        Raises:
            UserError: a shard is listed twice, or nobody can say what is there.
        """
        for listed in ("name", "sha256"):
            if len({getattr(shard, listed) for shard in self.shards}) != len(self.shards):
                raise UserError(f"data set {self.storage.root}: a shard stands twice in the manifest; prepare it anew")
        try:
            sizes = self.storage.sizes([shard.name for shard in self.shards])
        except StorageError as error:
            raise UserError(f"data set {self.storage.root}: {error}; copy or prepare it anew") from error
        found = {}
        for position, (shard, size) in enumerate(zip(self.shards, sizes, strict=True)):
            if size is None:
                found[position] = ShardFault(f"the shard '{shard.name}' is missing", 0)
            elif size not in (shard.bytes, UNKNOWN_SIZE):
                found[position] = ShardFault(
                    f"the shard '{shard.name}' has {size} bytes instead of {shard.bytes}", size
                )
        return found

    def lost_blocks(self) -> set[int]:
        """Blocks that cannot be there, as their shard ends before them or is missing."""
        index = self.index
        lost: set[int] = set()
        for position, fault in self.shard_faults.items():
            is_lost = (index.shard == position) & (index.offset + index.size_bytes > fault.num_bytes)
            lost |= set(np.flatnonzero(is_lost).tolist())
        return lost


def _read_index(storage: Storage, entry: dict[str, Any]) -> bytes:
    data = storage.read(check_member_name(entry["name"]))
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise UserError(f"data set {storage.root}: the index '{entry['name']}' was altered; copy or prepare it anew")
    return data


def _task_entry(content: dict[str, Any] | None) -> TaskEntry | None:
    return TaskEntry(content["name"], content["type"], tuple(content["labels"])) if content else None


def write_manifest(
    folder: Path,
    *,
    languages: Sequence[str],
    shards: Sequence[ShardEntry],
    tokenizers: dict[str, TokenizerEntry],
    statistics: dict[str, dict[str, int]],
    index: BlockIndex,
    settings_hash: str,
    task: TaskEntry | None = None,
    chat: ChatEntry | None = None,
) -> None:
    """Write the index, then, last of all, the manifest, each under a temporary name first."""
    index_bytes = index.encode()
    atomic.write_bytes(folder / INDEX_NAME, index_bytes)
    content = {
        "format": FORMAT,
        "version": VERSION,
        **({"task": asdict(task)} if task else {}),
        **({"chat": asdict(chat)} if chat else {}),
        "languages": list(languages),
        "tokenizers": {side: asdict(entry) for side, entry in tokenizers.items()},
        "statistics": statistics,
        "settings_hash": settings_hash,
        "index": {"name": INDEX_NAME, "bytes": len(index_bytes), "sha256": hashlib.sha256(index_bytes).hexdigest()},
        "shards": [asdict(shard) for shard in shards],
    }
    atomic.write_bytes(folder / MANIFEST_NAME, (json.dumps(content, indent=1) + "\n").encode())
