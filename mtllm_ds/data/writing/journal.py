"""What a killed `mtllm-ds prepare shards` has already done, so that a rerun goes on after the last finished shard."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from mtllm_ds import atomic
from mtllm_ds.data.shards.blocks import Block, Ragged, concatenate_blocks, decode_block, encode_block
from mtllm_ds.data.shards.manifest import BlockIndex, ShardEntry
from mtllm_ds.errors import UserError
from mtllm_ds.file_lock import HeldError, lock_file
from mtllm_ds.languages import FLORES_200

_FOLDER = ".unfinished"


@dataclass(frozen=True)
class WrittenBlock:
    """A row of the index, before the shard has a number."""

    offset: int
    size_bytes: int
    sha256: bytes
    language: str
    encoder_lengths: np.ndarray
    llm_lengths: np.ndarray


class Journal:
    """Progress of one output folder, kept on disk a finished shard; a context manager that holds the folder's lock.

    `chunks_done`, `statistics` and `pending` (samples that wait for their block, by language) are of this moment; the disk holds
    them as they were when the last shard was finished.
    """

    def __init__(self, output: Path, settings_hash: str) -> None:
        self._output = output
        self._folder = output / _FOLDER
        self._settings_hash = settings_hash
        self._lock: IO[str] | None = None
        self._parts: list[BlockIndex] = []
        self.shards: list[ShardEntry] = []
        self.chunks_done = 0
        self.digest = ""
        """Of the chunks done (`chunks.py`)"""
        self.statistics: dict[str, Counter[str]] = {}
        self.pending: dict[str, list[Block]] = {}

    def __enter__(self) -> "Journal":
        self._folder.mkdir(exist_ok=True)
        try:
            self._lock = lock_file(self._folder / "lock")
        except HeldError as error:
            raise UserError(
                f"--output={self._output}: another `mtllm-ds prepare` is writing there; wait for it or choose another folder"
            ) from error
        self._load()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def add_shard(self, shard: ShardEntry, blocks: Sequence[WrittenBlock]) -> None:
        """Note a finished shard together with the state that follows it."""
        part = BlockIndex(
            shard=np.full(len(blocks), len(self.shards)),
            offset=np.array([block.offset for block in blocks]),
            size_bytes=np.array([block.size_bytes for block in blocks]),
            sha256=np.frombuffer(b"".join(block.sha256 for block in blocks), np.uint8).reshape(-1, 32),
            language=np.array([FLORES_200.index(block.language) for block in blocks]),
            encoder_lengths=Ragged.from_rows([block.encoder_lengths for block in blocks], np.int32),
            llm_lengths=Ragged.from_rows([block.llm_lengths for block in blocks], np.int32),
        )
        state = {
            "settings_hash": self._settings_hash,
            "shard": asdict(shard),
            "chunks_done": self.chunks_done,
            "digest": self.digest,
            "statistics": self.statistics,
        }
        parts = {"state": json.dumps(state).encode(), "index": part.encode()}
        parts |= {code: encode_block(concatenate_blocks(rows)) for code, rows in self.pending.items() if rows}
        container = {"name": _as_bytes([name.encode() for name in parts]), "part": _as_bytes(list(parts.values()))}
        atomic.write_bytes(self._folder / f"{shard.name}.journal", encode_block(container))
        self.shards.append(shard)
        self._parts.append(part)

    def index(self, languages: Sequence[str]) -> BlockIndex:
        """The whole index, its languages numbered by `languages`."""
        index = BlockIndex.concatenate(self._parts)
        position = np.array([languages.index(code) if code in languages else -1 for code in FLORES_200])
        index.language[:] = position[index.language]
        return index

    def remove(self) -> None:
        """The data set is finished: the journal has done its work."""
        shutil.rmtree(self._folder)

    def _load(self) -> None:
        for leftover in self._output.glob(".*.tmp"):
            leftover.unlink()
        for path in sorted(self._folder.glob("*.journal")):
            container: dict[str, Any] = decode_block(path.read_bytes())
            parts = {
                bytes(name).decode(): bytes(part)
                for name, part in zip(container["name"], container["part"], strict=True)
            }
            state = json.loads(parts.pop("state"))
            if state["settings_hash"] != self._settings_hash:
                raise UserError(
                    f"--output={self._output}: holds an unfinished data set made with other settings or inputs; "
                    "choose another folder or remove it"
                )
            shard = ShardEntry(**state["shard"])
            target = self._output / shard.name
            if not target.exists() or target.stat().st_size != shard.bytes:
                raise UserError(
                    f"--output={self._output}: the finished shard '{shard.name}' was removed or altered; "
                    "remove the folder and start anew"
                )
            self.shards.append(shard)
            self._parts.append(BlockIndex.decode(parts.pop("index")))
            self.chunks_done, self.digest = state["chunks_done"], state["digest"]
            self.statistics = {code: Counter(counts) for code, counts in state["statistics"].items()}
            self.pending = {code: [decode_block(part)] for code, part in parts.items()}


def _as_bytes(rows: list[bytes]) -> Ragged:
    return Ragged.from_rows([np.frombuffer(row, np.uint8) for row in rows], np.uint8)
