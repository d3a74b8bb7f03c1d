"""Several data sets read as one: an index over them all. Nothing is copied or written; what they are and weigh stays known."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mtllm_ds.data.shards.blocks import Block
from mtllm_ds.data.shards.index_map import map_index
from mtllm_ds.data.shards.manifest import BlockIndex, Manifest, ShardEntry
from mtllm_ds.data.shards.storage import RemoteSettings, Storage
from mtllm_ds.data.shards.targets import BlockTargets
from mtllm_ds.errors import UserError
from mtllm_ds.languages import FLORES_200


@dataclass(frozen=True)
class JoinedManifest(Manifest):
    """Data sets as one, in their order."""

    parts: tuple[Manifest, ...] = ()
    weights: tuple[float, ...] = ()
    """What share of the samples each part gives, relative to the others"""


def parts_of(manifest: Manifest) -> tuple[tuple[Manifest, float], ...]:
    """The data sets that were joined, with their weights; itself where it is a single one."""
    if isinstance(manifest, JoinedManifest):
        return tuple(zip(manifest.parts, manifest.weights, strict=True))
    return ((manifest, 1.0),)


def first_blocks(parts: Iterable[Manifest]) -> np.ndarray:
    """(parts + 1,) number, in the joined index, of the first block of each; the last is the number of blocks."""
    return np.concatenate([[0], np.cumsum([part.num_blocks for part in parts])])


def join_data_sets(
    parts: Sequence[Manifest], weights: Sequence[float], remote: RemoteSettings | None = None
) -> JoinedManifest:
    """One manifest over several; its shards are named by root and name. A large index is kept in the cache folder of `remote`.

    Raises:
        UserError: they were made with different tokenizers, templates or for different tasks, hold the same shards, or none.
    """
    check_alike(parts)
    for part in parts:
        if not part.num_samples:
            raise UserError(
                f"data set {part.storage.root}: holds no samples; leave it out or prepare it from a file with text"
            )
    own = [[replace(shard, name=f"{part.storage.root}/{shard.name}") for shard in part.shards] for part in parts]
    shards = [shard for named in own for shard in named]
    check_no_repeats(shards)
    places = {
        shard.name: (part.storage, stored.name)
        for part, named in zip(parts, own, strict=True)
        for shard, stored in zip(named, part.shards, strict=True)
    }
    languages = joined_languages(parts)
    joined_hash = hashlib.sha256("".join(part.hash for part in parts).encode()).hexdigest()
    entry = {"bytes": sum(part.encoder_lengths.nbytes for part in parts), "sha256": joined_hash}
    cache = Path((remote or RemoteSettings()).cache_folder).expanduser()
    columns: dict[str, Any] = map_index(lambda: _columns(joined_index(parts, languages)), entry, cache)
    return JoinedManifest(
        storage=JoinedStorage(", ".join(part.storage.root for part in parts), places),
        hash=joined_hash,
        languages=tuple(languages),
        shards=tuple(shards),
        tokenizers=parts[0].tokenizers,
        statistics=joined_statistics(parts),
        index=BlockIndex(**columns),
        settings_hash=joined_hash,
        task=parts[0].task,
        chat=parts[0].chat,
        parts=tuple(parts),
        weights=tuple(weights),
    )


class JoinedStorage(Storage):
    """Files of several roots, each by a name of its own."""

    def __init__(self, root: str, places: Mapping[str, tuple[Storage, str]]) -> None:
        super().__init__(root)
        self._places = places

    def read(self, name: str) -> bytes:
        storage, stored = self._places[name]
        return storage.read(stored)

    def read_range(self, name: str, offset: int, length: int, is_whole: Callable[[bytes], bool]) -> bytes:
        storage, stored = self._places[name]
        return storage.read_range(stored, offset, length, is_whole)

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        found: dict[str, int | None] = {}
        for storage in dict.fromkeys(self._places[name][0] for name in names):
            own = [name for name in names if self._places[name][0] is storage]
            found |= dict(zip(own, storage.sizes([self._places[name][1] for name in own]), strict=True))
        return [found[name] for name in names]


class JoinedTargets:
    """Target columns by block of the joined data set, from the target sets of its parts."""

    def __init__(self, parts: Sequence[Manifest], targets: Sequence[BlockTargets]) -> None:
        self._first_blocks = first_blocks(parts)
        self._targets = targets

    def read(self, block: int) -> Block:
        """Target columns of a block; errors as the part's own."""
        part = int(np.searchsorted(self._first_blocks, block, side="right")) - 1
        return self._targets[part].read(block - int(self._first_blocks[part]))


def check_alike(parts: Sequence[Manifest]) -> None:
    """Refuse data sets of different tokenizers, tasks or chat templates.

    Raises:
        UserError: naming the first that differs from the first of all.
    """
    first = parts[0]
    for part in parts[1:]:
        place, other = part.storage.root, first.storage.root
        if first.tokenizers.keys() != part.tokenizers.keys():
            sides = {"encoder": "--encoder", "llm": "--llm"}
            used = [" and ".join(sides[side] for side in manifest.tokenizers) for manifest in (part, first)]
            raise UserError(f"{place}: was made with {used[0]}, {other} with {used[1]}; prepare it anew")
        for side, entry in first.tokenizers.items():
            if entry.fingerprint != part.tokenizers[side].fingerprint:
                raise UserError(f"{place}: was made with another {side}'s tokenizer than {other}; prepare it anew")
        if part.task != first.task:
            raise UserError(f"{place}: is labelled for another task than {other}; keep them apart")
        if part.chat != first.chat:
            raise UserError(
                f"{place}: its dialogues have another template or system prompt than {other}; keep them apart"
            )


def check_no_repeats(shards: Iterable[ShardEntry]) -> None:
    """Refuse a shard that stands there twice, under whatever name."""
    known: dict[str, str] = {}
    for shard in shards:
        if other := known.get(shard.sha256):
            raise UserError(f"{shard.name}: holds the very bytes of {other}; leave one of the two parts out")
        known[shard.sha256] = shard.name


def joined_languages(parts: Iterable[Manifest]) -> list[str]:
    """The languages of all parts, in the order of FLORES-200."""
    found = {code for part in parts for code in part.languages}
    return [code for code in FLORES_200 if code in found]


def joined_statistics(parts: Iterable[Manifest]) -> dict[str, dict[str, int]]:
    """Counts by language, summed over the parts."""
    statistics: dict[str, Counter[str]] = {}
    for part in parts:
        for code, counts in part.statistics.items():
            statistics.setdefault(code, Counter()).update(counts)
    return {code: dict(counts) for code, counts in sorted(statistics.items())}


def joined_index(parts: Sequence[Manifest], languages: Sequence[str]) -> BlockIndex:
    """The blocks of all parts, one part after the other."""
    shifted, num_shards = [], 0
    for part in parts:
        position = np.array([languages.index(code) for code in part.languages])
        shifted.append(replace(part.index, shard=part.index.shard + num_shards, language=position[part.index.language]))
        num_shards += len(part.shards)
    return BlockIndex.concatenate(shifted)


def _columns(index: BlockIndex) -> Block:
    return {column.name: getattr(index, column.name) for column in fields(index)}
