"""What a teacher makes of every sample of a data set, computed once on any number of ranks and kept beside the shards.

The teacher is a trained model (a run or an export, such as the task-tuned LLM of stage 2) or a plain LLM, as stage 1 uses it. It is
whole on every rank; ranks share the groups of blocks. A run that was stopped goes on with the groups that are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from mtllm_ds.cluster.agree import together, wait_for_all
from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.data.columns import CHOICE_SPANS
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.shards.targets import GroupSink, TargetWriter, choice_columns, pooled_columns
from mtllm_ds.data.stream.block_cache import BlockCache
from mtllm_ds.data.stream.collate import Collator
from mtllm_ds.teachers.trained import TrainedTeacher

_GROUP_SAMPLES = 1024
"""Samples a group, about: what a stopped run loses at most a rank, and what is sorted by length together."""


def write_targets(
    manifest: Manifest,
    name: str,
    teacher: TrainedTeacher,
    cluster: Cluster,
    *,
    batch_size: int,
    stored_dtype: str = "float32",
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Add the target set `name` to a local data set; groups that are there already are left as they are.

    Args:
        batch_size: samples per forward
        stored_dtype: float32 or float16
        advance: called with samples done and to do by this rank

    Raises:
        UserError: the set was begun by another teacher, or the teacher's vectors are not finite in `stored_dtype`.
    """
    samples_of_block = np.diff(manifest.first_row)
    # Decided by the data set alone, so that any number of ranks can go on with it.
    group_blocks = max(1, _GROUP_SAMPLES // int(samples_of_block.max()))
    writer = together(lambda: TargetWriter(manifest, name, teacher.identity, group_blocks), cluster.device)
    wait_for_all()

    def work() -> None:
        groups = writer.missing_groups(cluster.rank, cluster.world_size)
        total = int(sum(samples_of_block[g * group_blocks : (g + 1) * group_blocks].sum() for g in groups))
        done = 0
        advance(done, total)
        for group in groups:
            with writer.open(group) as sink:
                answers: dict[int, torch.Tensor] = {}
                for rows, vectors in _ask(manifest, sink.blocks, teacher, cluster.device, batch_size):
                    answers |= dict(zip(rows, vectors, strict=True))
                    advance(done := done + len(rows), total)
                _add(sink, manifest, answers, teacher.of_choices, stored_dtype)

    together(work, cluster.device)
    together(lambda: writer.finish() if cluster.is_main else None, cluster.device)


@torch.no_grad()
def _ask(
    manifest: Manifest, blocks: range, teacher: TrainedTeacher, device: torch.device, batch_size: int
) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
    """(row numbers, a vector (D,) or the choices' vectors (C, D) each), batches of similar length, the longest first."""
    cache = BlockCache(manifest, cached_blocks=len(blocks))
    collate = Collator(pad_ids={side: entry.pad_id for side, entry in manifest.tokenizers.items()})
    lengths = manifest.llm_lengths if teacher.side == "llm" else manifest.encoder_lengths
    rows = np.arange(manifest.first_row[blocks.start], manifest.first_row[blocks.stop])
    rows = rows[np.argsort(-lengths[rows].astype(np.int64), kind="stable")]
    for start in range(0, len(rows), batch_size):
        batch = collate([cache.samples(rows[start : start + batch_size])])
        vectors = list(teacher.vectors(batch.to(device)).float().cpu())
        if teacher.of_choices:
            spans = batch.extras[CHOICE_SPANS[teacher.side]]
            num_choices = (spans[..., 1] > spans[..., 0]).sum(-1).tolist()
            vectors = [own[:count] for own, count in zip(vectors, num_choices, strict=True)]
        yield batch.sample_ids.tolist(), vectors


def _add(
    sink: GroupSink, manifest: Manifest, answers: dict[int, torch.Tensor], of_choices: bool, stored_dtype: str
) -> None:
    for block in sink.blocks:
        rows = range(int(manifest.first_row[block]), int(manifest.first_row[block + 1]))
        vectors = [answers[row] for row in rows]
        sink.add(
            choice_columns(vectors, stored_dtype) if of_choices else pooled_columns(torch.stack(vectors), stored_dtype)
        )
