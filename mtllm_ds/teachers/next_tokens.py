"""A plain LLM as a teacher of dialogues: the likeliest tokens in place of each of the responses', to be kept beside the shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.data.shards.blocks import Block
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.shards.targets import TeacherIdentity, TopK, top_k_columns, top_k_log_probs
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.errors import UserError
from mtllm_ds.models.continuation import num_response_tokens, places_before
from mtllm_ds.models.generation import require_causal
from mtllm_ds.models.lm_head import OutputHead, load_output_head
from mtllm_ds.models.loading import choose_attention, load_llm, weights_fingerprint
from mtllm_ds.models.readers import LLMReader, Side, read_padded
from mtllm_ds.teachers.trained import checked_tokenizer, is_trained, plain_llm

_LOGITS = 2**25
"""Logits at once"""


class NextTokenTeacher:
    """Tells the k likeliest tokens, and what all others have together.

    Attributes:
        identity: who it is, as a target set remembers it
        side: whose ids it reads
    """

    side: Side = "llm"

    def __init__(
        self, identity: TeacherIdentity, llm: Any, head: OutputHead, *, num_kept: int, temperature: float
    ) -> None:
        self.identity = identity
        self._llm = llm
        self._head = head
        self._num_kept = num_kept
        self._temperature = temperature

    @torch.no_grad()
    def answers(self, batch: Batch) -> list[TopK]:
        """Of each sample with T tokens in its response: (T, k) and (T,) on the CPU."""
        states = read_padded(self._llm, batch.llm_mask, input_ids=batch.llm_ids).flatten(0, 1)
        rows = states[places_before(batch).to(states.device)]
        size = max(1, _LOGITS // self._head.weight.shape[0])
        parts = [top_k_log_probs(self._head(part) / self._temperature, self._num_kept) for part in rows.split(size)]
        counts = num_response_tokens(batch).tolist()
        columns = (
            torch.cat([getattr(part, name).cpu() for part in parts]).split(counts)
            for name in ("ids", "log_probs", "log_tail_mass")
        )
        return [
            TopK(ids=ids, log_probs=log_probs, log_tail_mass=tail)
            for ids, log_probs, tail in zip(*columns, strict=True)
        ]

    def columns(self, answers: Sequence[TopK], stored_dtype: str) -> Block:
        """Columns of a block's samples."""
        return top_k_columns(answers, self._head.weight.shape[0], stored_dtype)


def load_next_token_teacher(
    place: str,
    manifest: Manifest,
    device: torch.device,
    dtype: torch.dtype,
    *,
    num_kept: int,
    temperature: float = 1.0,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> NextTokenTeacher:
    """The plain LLM of a Hugging Face folder or hub name, with its head.

    Args:
        num_kept: likeliest tokens that it tells
        temperature: divides its logits

    Raises:
        UserError: the shards hold no dialogues, it is a trained model, its tokenizer is not that of the shards or has fewer tokens.
    """
    if manifest.chat is None:
        raise UserError(
            f"--top-k={num_kept}: the shards in '{manifest.storage.root}' hold no responses; leave it out, or give shards of "
            "prepare dialogues"
        )
    if is_trained(place):
        raise UserError(
            f"--teacher={place}: a trained model; next tokens are those of the plain LLM that teaches, so name that"
        )
    settings = plain_llm(place, manifest, bidirectional=False, revision=revision, trust_remote_code=trust_remote_code)
    require_causal(settings)
    fingerprint = checked_tokenizer(manifest, "llm", settings)
    llm: Any = load_llm(settings, choose_attention("auto", device, dtype), dtype)
    llm.to(device).eval()
    head = load_output_head(settings, LLMReader(llm), dtype).to(device)
    if num_kept > head.weight.shape[0]:
        raise UserError(f"--top-k={num_kept}: '{place}' tells {head.weight.shape[0]} tokens; lower it")
    identity = next_token_identity(settings, fingerprint, temperature)
    return NextTokenTeacher(identity, llm, head, num_kept=num_kept, temperature=temperature)


def next_token_identity(llm: LLMSettings, tokenizer_fingerprint: str, temperature: float) -> TeacherIdentity:
    """Who a plain LLM is as a teacher of next tokens: its weights, and the temperature of what it says."""
    return TeacherIdentity(
        name=f"{Path(llm.name).name}, next tokens at temperature {temperature:g}",
        revision=weights_fingerprint(llm.name, llm.revision),
        tokenizer_fingerprint=tokenizer_fingerprint,
    )
