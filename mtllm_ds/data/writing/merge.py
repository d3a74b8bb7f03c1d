"""Data sets that several machines have prepared, as one: a manifest over the shards that lie in folders below it."""

import hashlib
from dataclasses import replace
from pathlib import Path

from mtllm_ds.data.shards.joined import (
    check_alike,
    check_no_repeats,
    joined_index,
    joined_languages,
    joined_statistics,
)
from mtllm_ds.data.shards.manifest import MANIFEST_NAME, Manifest, write_manifest
from mtllm_ds.errors import UserError


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
    check_alike(parts)
    shards = [
        replace(shard, name=f"{folder.name}/{shard.name}")
        for folder, part in zip(folders, parts, strict=True)
        for shard in part.shards
    ]
    check_no_repeats(shards)
    languages = joined_languages(parts)
    write_manifest(
        output,
        languages=languages,
        shards=shards,
        tokenizers=parts[0].tokenizers,
        statistics=joined_statistics(parts),
        index=joined_index(parts, languages),
        settings_hash=hashlib.sha256("".join(part.hash for part in parts).encode()).hexdigest(),
        task=parts[0].task,
        chat=parts[0].chat,
    )
    return Manifest.load(output)
