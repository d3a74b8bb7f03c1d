"""A teacher that is a model of its own: what a run or an export trained, or a plain LLM as stage 1 asks it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mtllm_ds.checkpoint.export import is_export
from mtllm_ds.checkpoint.trained import Trained, read_trained
from mtllm_ds.config.sections import EncoderSettings, LLMSettings, Pooling
from mtllm_ds.data.columns import CHOICE_SPANS
from mtllm_ds.data.shards.blocks import Block
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.shards.targets import TeacherIdentity, choice_columns, pooled_columns
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.models.build import load_reader, located
from mtllm_ds.models.loading import choose_attention, load_llm, weights_fingerprint
from mtllm_ds.models.pooling import pool
from mtllm_ds.models.readers import Reader, Side
from mtllm_ds.teachers.base import Teacher


class TrainedTeacher(Teacher):
    """A model of its own, frozen and whole on this rank.

    Attributes:
        identity: who it is, as a target set remembers it
        side: whose ids it reads
        of_choices: it gives a vector of each choice, zeros for choices that are not there
    """

    def __init__(
        self, identity: TeacherIdentity, side: Side, vectors: Callable[[Batch], torch.Tensor], of_choices: bool = False
    ) -> None:
        self.identity = identity
        self.side = side
        self.of_choices = of_choices
        self._vectors = vectors

    @torch.no_grad()
    def vectors(self, batch: Batch) -> torch.Tensor:
        """(B, D) float32, or (B, C, D) of choices."""
        return self._vectors(batch)

    def answers(self, batch: Batch) -> list[torch.Tensor]:
        """A vector (D,) of each sample, or those of its choices (C, D), on the CPU."""
        vectors = list(self.vectors(batch).float().cpu())
        if not self.of_choices:
            return vectors
        spans = batch.extras[CHOICE_SPANS[self.side]]
        num_choices = (spans[..., 1] > spans[..., 0]).sum(-1).tolist()
        return [own[:count] for own, count in zip(vectors, num_choices, strict=True)]

    def columns(self, answers: Sequence[torch.Tensor], stored_dtype: str) -> Block:
        """Columns of a block's samples."""
        if self.of_choices:
            return choice_columns(answers, stored_dtype)
        return pooled_columns(torch.stack(list(answers)), stored_dtype)


def load_teacher(
    place: str,
    manifest: Manifest,
    device: torch.device,
    dtype: torch.dtype,
    *,
    bidirectional: bool = True,
    pooling: Pooling = "mean",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> TrainedTeacher:
    """The model of a run, of an export, or the plain LLM of a Hugging Face folder or hub name.

    Args:
        bidirectional: of a plain LLM, as are the others; a trained one remembers
        revision: commit or tag on the hub; None takes the shards' own where they name the same model

    Raises:
        UserError: there is no such model, its tokenizer is not that of the shards, or it answers another task.
    """
    if manifest.chat is not None:
        raise UserError(
            f"--data={manifest.storage.root}: holds dialogues, whose teacher tells next tokens; say how many by --top-k"
        )
    if is_trained(place):
        trained = read_trained(place, "--teacher")
        _check_task(trained, manifest, place)
        model = located(trained.model, trained.bases, place, {})
        side = model.sides[0]
        fingerprint = checked_tokenizer(manifest, side, getattr(model, side))
        reader = load_reader(model, trained.weights, device, dtype)
        of_choices = trained.task is not None and trained.task.type == "multiple_choice"
        asked = _choice_vectors(reader) if of_choices else reader.vectors
        return TrainedTeacher(trained.as_teacher(fingerprint), reader.side, asked, of_choices)
    llm = plain_llm(
        place, manifest, bidirectional=bidirectional, revision=revision, trust_remote_code=trust_remote_code
    )
    fingerprint = checked_tokenizer(manifest, "llm", llm)
    plain: Any = load_llm(llm, choose_attention("auto", device, dtype), dtype)
    plain.to(device).eval()

    def pooled(batch: Batch) -> torch.Tensor:
        states = plain(input_ids=batch.llm_ids, attention_mask=batch.llm_mask).last_hidden_state
        return pool(states, batch.llm_mask, pooling)

    return TrainedTeacher(plain_teacher(llm, fingerprint, pooling), "llm", pooled)


def plain_llm(
    place: str, manifest: Manifest, *, bidirectional: bool, revision: str | None, trust_remote_code: bool
) -> LLMSettings:
    """A plain LLM, at the revision of the shards' tokenizer where they name the same one."""
    llm = LLMSettings(name=place, bidirectional=bidirectional, revision=revision, trust_remote_code=trust_remote_code)
    entry = manifest.tokenizers.get("llm")
    if revision is None and entry is not None and entry.name == llm.name:
        return llm.model_copy(update={"revision": entry.revision})
    return llm


def plain_teacher(llm: LLMSettings, tokenizer_fingerprint: str, pooling: Pooling = "mean") -> TeacherIdentity:
    """Who a plain LLM is as a teacher: its weights, which way it attends, and how its states are pooled."""
    pooled = "" if pooling == "mean" else f" and pooled by {pooling}"  # sets of before there was a choice say nothing
    return TeacherIdentity(
        name=f"{Path(llm.name).name}, {'bidirectional' if llm.bidirectional else 'as trained'}{pooled}",
        revision=weights_fingerprint(llm.name, llm.revision),
        tokenizer_fingerprint=tokenizer_fingerprint,
    )


def _choice_vectors(reader: Reader) -> Callable[[Batch], torch.Tensor]:
    return lambda batch: reader.choice_vectors(batch, batch.extras[CHOICE_SPANS[reader.side]])


def is_trained(place: str) -> bool:
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


def checked_tokenizer(manifest: Manifest, side: Side, base: EncoderSettings | LLMSettings) -> str:
    """Fingerprint of the teacher's tokenizer, found to be that of the shards."""
    spec = TokenizerSpec(
        name=base.name,
        revision=base.revision,
        side=side,
        family=manifest.tokenizer_of(side).family,
        trust_remote_code=base.trust_remote_code,
    )
    tokenizer = load_text_tokenizer(spec)
    manifest.check_tokenizer(tokenizer)
    return tokenizer.fingerprint
