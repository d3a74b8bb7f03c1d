"""Data sets that several machines have prepared, as one: a manifest over the shards that lie in folders below it."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mtllm_ds.data.shards.manifest import MANIFEST_NAME, BlockIndex, Manifest, ShardEntry, write_manifest
from mtllm_ds.errors import UserError
from mtllm_ds.languages import FLORES_200


def merge_data_sets(output: Path) -> Manifest:
    """Write the manifest of `output` over the finished data sets in the folders directly below it, in the order of their names.

    Nothing is copied or moved; the parts stay data sets of their own. Merged anew (with further parts), it is another data set.

    Raises:
        UserError: there are no parts, or they were made with different tokenizers or for different tasks.
    """
    folders = sorted(path.parent for path in output.glob(f"*/{MANIFEST_NAME}"))
    if not folders:
        raise UserError(
            f"--output={output}: holds no folder with a finished data set; prepare each part into a folder below it"
        )
    parts = [Manifest.load(folder) for folder in folders]
    for folder, part in zip(folders, parts, strict=True):
        _check_alike(folders[0], parts[0], folder, part)
    shards = [
        replace(shard, name=f"{folder.name}/{shard.name}")
        for folder, part in zip(folders, parts, strict=True)
        for shard in part.shards
    ]
    _check_no_repeats(shards)
    languages = [code for code in FLORES_200 if any(code in part.languages for part in parts)]
    statistics: dict[str, Counter[str]] = {}
    for part in parts:
        for code, counts in part.statistics.items():
            statistics.setdefault(code, Counter()).update(counts)
    write_manifest(
        output,
        languages=languages,
        shards=shards,
        tokenizers=parts[0].tokenizers,
        statistics={code: dict(counts) for code, counts in sorted(statistics.items())},
        index=_merged_index(parts, languages),
        settings_hash=hashlib.sha256("".join(part.hash for part in parts).encode()).hexdigest(),
        task=parts[0].task,
        chat=parts[0].chat,
    )
    return Manifest.load(output)


def _check_alike(first_folder: Path, first: Manifest, folder: Path, part: Manifest) -> None:
    if first.tokenizers.keys() != part.tokenizers.keys():
        sides = {"encoder": "--encoder", "llm": "--llm"}
        used = [" and ".join(sides[side] for side in manifest.tokenizers) for manifest in (part, first)]
        raise UserError(f"{folder}: was made with {used[0]}, {first_folder} with {used[1]}; prepare it anew")
    for side, entry in first.tokenizers.items():
        if entry.fingerprint != part.tokenizers[side].fingerprint:
            raise UserError(f"{folder}: was made with another {side}'s tokenizer than {first_folder}; prepare it anew")
    if part.task != first.task:
        raise UserError(f"{folder}: is labelled for another task than {first_folder}; keep them apart")
    if part.chat != first.chat:
        raise UserError(
            f"{folder}: its dialogues have another template or system prompt than {first_folder}; keep them apart"
        )


def _check_no_repeats(shards: Sequence[ShardEntry]) -> None:
    known: dict[str, str] = {}
    for shard in shards:
        if other := known.get(shard.sha256):
            raise UserError(f"{shard.name}: holds the very bytes of {other}; leave one of the two parts out")
        known[shard.sha256] = shard.name


def _merged_index(parts: Sequence[Manifest], languages: Sequence[str]) -> BlockIndex:
    shifted, num_shards = [], 0
    for part in parts:
        position = np.array([languages.index(code) for code in part.languages])
        shifted.append(replace(part.index, shard=part.index.shard + num_shards, language=position[part.index.language]))
        num_shards += len(part.shards)
    return BlockIndex.concatenate(shifted)
