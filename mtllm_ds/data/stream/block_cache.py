"""Samples by row number, whatever block they lie in."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from mtllm_ds.data.shards.blocks import Block
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.shards.tar_shards import DamagedBlockError, read_block
from mtllm_ds.data.shards.targets import BlockTargets
from mtllm_ds.data.stream.collate import Sample
from mtllm_ds.errors import UserError

OnError = Literal["fail", "skip"]


class BlockCache:
    """Rows by number, with the blocks last used kept decoded.

    Args:
        on_error: `skip` drops damaged blocks whole, until their samples exceed `max_skipped_share` of the data set.
        targets: target sets whose columns are added to each block's
    """

    def __init__(
        self,
        manifest: Manifest,
        cached_blocks: int,
        on_error: OnError = "fail",
        max_skipped_share: float = 0.0,
        targets: Sequence[BlockTargets] = (),
    ) -> None:
        self._targets = targets
        self._manifest = manifest
        self._blocks: OrderedDict[int, Block | None] = OrderedDict()
        self._capacity = cached_blocks
        self._on_error = on_error
        self._max_skipped_share = max_skipped_share
        self.skipped_blocks: set[int] = set()

    def samples(self, rows: np.ndarray) -> list[Sample]:
        """The samples of some rows; fewer where blocks are skipped."""
        blocks = self._manifest.blocks_of_rows(rows)
        places = (rows - self._manifest.first_row[blocks]).tolist()
        languages = self._manifest.index.language[blocks].tolist()
        found = []
        for row, block, place, language in zip(rows.tolist(), blocks.tolist(), places, languages, strict=True):
            columns = self._block(block)
            if columns is not None:
                found.append(Sample(columns, place, language, row))
        return found

    def _block(self, block: int) -> Block | None:
        if block in self._blocks:
            self._blocks.move_to_end(block)
            return self._blocks[block]
        columns = self._read(block)
        self._blocks[block] = columns
        if len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)
        return columns

    def _read(self, block: int) -> Block | None:
        if block in self.skipped_blocks:
            return None
        try:
            columns = read_block(self._manifest, block)
            for target in self._targets:
                columns |= target.read(block)
            return columns
        except DamagedBlockError as error:
            if self._on_error == "fail":
                raise
            self.skipped_blocks.add(block)
            check_skipped(self._manifest, self.skipped_blocks, self._max_skipped_share, f"; the last: {error.fault}")
            return None


def readable_blocks(
    manifest: Manifest, blocks: Iterable[int], on_error: OnError, max_skipped_share: float
) -> Iterator[Block]:
    """Some blocks in order: under `skip` those that are not damaged, and at least one.

    Raises:
        UserError: a block is damaged under `fail`; or under `skip` more than may be, or all of them.
    """
    skipped: set[int] = set()
    num_read, fault = 0, ""
    for block in blocks:
        try:
            columns = read_block(manifest, block)
        except DamagedBlockError as error:
            if on_error == "fail":
                raise
            skipped.add(block)
            fault = f"; the last: {error.fault}"
            check_skipped(manifest, skipped, max_skipped_share, fault)
            continue
        num_read += 1
        yield columns
    if not num_read:
        raise UserError(
            f"data set {manifest.storage.root}: all {len(skipped)} blocks that were looked at are damaged; prepare it anew{fault}"
        )


def lost_shards(manifest: Manifest, max_skipped_share: float) -> list[str]:
    """What is wrong with shards that are missing or cut short, a line each, where what they held may be skipped.

    Raises:
        UserError: they held more than may be.
    """
    faults = [fault.reason for fault in manifest.shard_faults.values()]
    if faults:
        check_skipped(manifest, manifest.lost_blocks(), max_skipped_share, f"; {faults[0]}")
    return [f"data set {manifest.storage.root}: {reason}, and what it held is skipped" for reason in faults]


def check_skipped(manifest: Manifest, blocks: set[int], max_share: float, last: str = "") -> None:
    """Raise `UserError` if these damaged blocks hold more than that share of all samples."""
    lost = sum(len(manifest.index.llm_lengths[block]) for block in blocks)
    if lost > max_share * manifest.num_samples:
        raise UserError(
            f"data.max_skipped_share={max_share}: {lost} of {manifest.num_samples} samples lie in damaged blocks, more than it "
            f"allows; prepare the data set anew{last}"
        )
