"""What a teacher makes of every sample of a data set, computed once on any number of ranks and kept beside the shards.

The teacher is a trained model (a run or an export, such as the task-tuned LLM of stage 2) or a plain LLM, as stage 1 uses it for
vectors and token distillation for next tokens. It is whole on every rank; ranks share the groups of blocks. A run that was stopped
goes on with the groups that are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from mtllm_ds.cluster.agree import together, wait_for_all
from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.cluster.patience import patiently
from mtllm_ds.data.shards.blocks import Block
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.shards.targets import GroupSink, TargetWriter, TeacherIdentity
from mtllm_ds.data.stream.block_cache import BlockCache
from mtllm_ds.data.stream.collate import Batch, Collator
from mtllm_ds.models.readers import Side

_GROUP_SAMPLES = 1024
"""Samples a group, about: what a stopped run loses at most a rank, and what is sorted by length together."""


class Answering(Protocol):
    """A teacher whose answers can be kept."""

    identity: TeacherIdentity
    side: Side

    def answers(self, batch: Batch) -> list[Any]:
        """What it says of each sample, on the CPU."""

    def columns(self, answers: Sequence[Any], stored_dtype: str) -> Block:
        """Target columns of the samples of a block."""


def write_targets(
    manifest: Manifest,
    name: str,
    teacher: Answering,
    cluster: Cluster,
    *,
    batch_size: int,
    stored_dtype: str = "float32",
    kept_as: Mapping[str, str | int] | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Add the target set `name` to a local data set; groups that are there already are left as they are.

    Args:
        batch_size: samples per forward
        stored_dtype: float32 or float16
        kept_as: more options by name that decide what is kept, as `TargetWriter` compares them
        advance: called with samples done and to do by this rank

    Raises:
        UserError: the set was begun by another teacher or with other options, or what the teacher says is not finite in
            `stored_dtype`.
    """
    samples_of_block = np.diff(manifest.first_row)
    # Decided by the data set alone, so that any number of ranks can go on with it.
    group_blocks = max(1, _GROUP_SAMPLES // int(samples_of_block.max()))
    options = {**(kept_as or {}), "--store": stored_dtype}
    writer = together(lambda: TargetWriter(manifest, name, teacher.identity, group_blocks, options), cluster.device)
    wait_for_all()

    def work() -> None:
        groups = writer.missing_groups(cluster.rank, cluster.world_size)
        total = int(sum(samples_of_block[g * group_blocks : (g + 1) * group_blocks].sum() for g in groups))
        done = 0
        advance(done, total)
        for group in groups:
            with writer.open(group) as sink:
                answers: dict[int, Any] = {}
                for rows, said in _ask(manifest, sink.blocks, teacher, cluster.device, batch_size):
                    answers |= dict(zip(rows, said, strict=True))
                    advance(done := done + len(rows), total)
                _add(sink, manifest, answers, teacher, stored_dtype)

    patiently(work, cluster.device)
    together(lambda: writer.finish() if cluster.is_main else None, cluster.device)


@torch.no_grad()
def _ask(
    manifest: Manifest, blocks: range, teacher: Answering, device: torch.device, batch_size: int
) -> Iterator[tuple[list[int], list[Any]]]:
    """(row numbers, an answer each), batches of similar length, the longest first."""
    cache = BlockCache(manifest, cached_blocks=len(blocks))
    collate = Collator(pad_ids={side: entry.pad_id for side, entry in manifest.tokenizers.items()})
    lengths = manifest.llm_lengths if teacher.side == "llm" else manifest.encoder_lengths
    rows = np.arange(manifest.first_row[blocks.start], manifest.first_row[blocks.stop])
    rows = rows[np.argsort(-lengths[rows].astype(np.int64), kind="stable")]
    for start in range(0, len(rows), batch_size):
        batch = collate([cache.samples(rows[start : start + batch_size])])
        yield batch.sample_ids.tolist(), teacher.answers(batch.to(device))


def _add(sink: GroupSink, manifest: Manifest, answers: dict[int, Any], teacher: Answering, stored_dtype: str) -> None:
    for block in sink.blocks:
        rows = range(int(manifest.first_row[block]), int(manifest.first_row[block + 1]))
        sink.add(teacher.columns([answers[row] for row in rows], stored_dtype))
