"""What a teacher makes of every sample of a data set, computed once on any number of ranks and kept beside the shards.

The teacher is a trained model (a run or an export, such as the task-tuned LLM of stage 2) or a plain LLM, as stage 1 uses it. It is
whole on every rank; ranks share the groups of blocks. A run that was stopped goes on with the groups that are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtllm_ds.checkpoint.export import is_export
from mtllm_ds.checkpoint.trained import Trained, read_trained
from mtllm_ds.cluster.agree import together, wait_for_all
from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.config.sections import EncoderSettings, LLMSettings
from mtllm_ds.data.columns import CHOICE_SPANS
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.shards.targets import GroupSink, TargetWriter, Teacher, choice_columns, pooled_columns
from mtllm_ds.data.stream.block_reader import BlockReader
from mtllm_ds.data.stream.collate import Batch, Collator
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.models.build import load_reader, located
from mtllm_ds.models.loading import choose_attention, load_llm, weights_fingerprint
from mtllm_ds.models.readers import Reader, Side, mean_pool

_GROUP_SAMPLES = 1024
"""Samples a group, about: what a stopped run loses at most a rank, and what is sorted by length together."""


@dataclass(frozen=True)
class TeacherModel:
    """A frozen model, ready to be asked."""

    identity: Teacher
    side: Side
    """Whose ids it reads"""
    vectors: Callable[[Batch], torch.Tensor]
    """(B, D) float32, or with `of_choices` (B, C, D), zeros for choices that are not there"""
    of_choices: bool = False


def load_teacher(
    place: str,
    manifest: Manifest,
    device: torch.device,
    dtype: torch.dtype,
    *,
    bidirectional: bool = True,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> TeacherModel:
    """The model of a run, of an export, or the plain LLM of a Hugging Face folder or hub name.

    Args:
        bidirectional: of a plain LLM, as are the others; a trained one remembers
        revision: commit or tag on the hub; None takes the shards' own where they name the same model

    Raises:
        UserError: there is no such model, its tokenizer is not that of the shards, or it answers another task.
    """
    if _is_trained(place):
        trained = read_trained(place, "--teacher")
        _check_task(trained, manifest, place)
        model = located(trained.model, trained.bases, place, {})
        side = model.sides[0]
        fingerprint = _checked_tokenizer(manifest, side, getattr(model, side))
        reader = load_reader(model, trained.weights, device, dtype)
        of_choices = trained.task is not None and trained.task.type == "multiple_choice"
        asked = _choice_vectors(reader) if of_choices else reader.vectors
        return TeacherModel(trained.as_teacher(fingerprint), reader.side, asked, of_choices)
    llm = LLMSettings(name=place, bidirectional=bidirectional, revision=revision, trust_remote_code=trust_remote_code)
    if revision is None and manifest.tokenizers["llm"].name == llm.name:
        llm = llm.model_copy(update={"revision": manifest.tokenizers["llm"].revision})
    fingerprint = _checked_tokenizer(manifest, "llm", llm)
    plain: Any = load_llm(llm, choose_attention("auto", device, dtype), dtype)
    plain.to(device).eval()

    def pooled(batch: Batch) -> torch.Tensor:
        states = plain(input_ids=batch.llm_ids, attention_mask=batch.llm_mask).last_hidden_state
        return mean_pool(states, batch.llm_mask)

    return TeacherModel(plain_teacher(llm, fingerprint), "llm", pooled)


def plain_teacher(llm: LLMSettings, tokenizer_fingerprint: str) -> Teacher:
    """Who a plain LLM is as a teacher: its weights, and which way it attends."""
    return Teacher(
        name=f"{Path(llm.name).name}, {'bidirectional' if llm.bidirectional else 'as trained'}",
        revision=weights_fingerprint(llm.name, llm.revision),
        tokenizer_fingerprint=tokenizer_fingerprint,
    )


def write_targets(
    manifest: Manifest,
    name: str,
    teacher: TeacherModel,
    cluster: Cluster,
    *,
    batch_size: int,
    stored_dtype: str = "float32",
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Add the target set `name` to a local data set; groups that are there already are left as they are.

    Args:
        batch_size: samples a forward
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
    manifest: Manifest, blocks: range, teacher: TeacherModel, device: torch.device, batch_size: int
) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
    """(row numbers, a vector (D,) or the choices' vectors (C, D) each), batches of similar length, the longest first."""
    reader = BlockReader(manifest, cached_blocks=len(blocks))
    collate = Collator(pad_ids={side: entry.pad_id for side, entry in manifest.tokenizers.items()})
    lengths = manifest.llm_lengths if teacher.side == "llm" else manifest.encoder_lengths
    rows = np.arange(manifest.first_row[blocks.start], manifest.first_row[blocks.stop])
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    for start in range(0, len(rows), batch_size):
        batch = collate([reader.samples(rows[start : start + batch_size])])
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


def _choice_vectors(reader: Reader) -> Callable[[Batch], torch.Tensor]:
    return lambda batch: reader.choice_vectors(batch, batch.extras[CHOICE_SPANS[reader.side]])


def _is_trained(place: str) -> bool:
    """A run, or an export."""
    return (Path(place) / "checkpoints").is_dir() or is_export(Path(place))


def _check_task(trained: Trained, manifest: Manifest, place: str) -> None:
    answers, asked = trained.task, manifest.task
    # Plain text serves where the task asks for no choices, as stage 2 reads no labels.
    if answers is None or (asked is None and answers.type != "multiple_choice"):
        return
    if asked is None or (asked.type, asked.labels) != (answers.type, answers.labels):
        found = f"labelled for {asked.name}" if asked else "plain text"
        raise UserError(
            f"--teacher {place}: it answers {answers.name}, but the shards in '{manifest.storage.root}' are {found}; "
            "give the shards of its task with the same labels"
        )


def _checked_tokenizer(manifest: Manifest, side: Side, base: EncoderSettings | LLMSettings) -> str:
    """Fingerprint of the teacher's tokenizer, found to be that of the shards."""
    spec = TokenizerSpec(name=base.name, revision=base.revision, side=side, trust_remote_code=base.trust_remote_code)
    tokenizer = load_text_tokenizer(spec)
    manifest.check_tokenizer(tokenizer)
    return tokenizer.fingerprint
