"""A response behind what its reader read: an encoder's states, a prompt's tokens, or both.

Where every token comes from and where the response is told is worked out on the host, in padded rows and in packed ones alike.
Shapes: B samples; R rows of P tokens that the student reads; N response tokens of all samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from mtllm_ds.data.columns import RESPONSE_START, STUDENT_PROMPT_IDS
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.data.stream.packing import PackedRows, pack_rows
from mtllm_ds.models.packed import run_packed
from mtllm_ds.models.readers import LLMReader, base_of, read_padded
from mtllm_ds.models.stacked import StackedModel


@dataclass(frozen=True)
class Continuations:
    """What a batch's student reads, and where its and the teacher's states tell the response."""

    rows: PackedRows
    """Layout of the student's rows; with cells of a fixed count a row a sample"""
    ids: torch.Tensor
    """(R, P) int64 place of each token among `student_prompt_ids` and `llm_ids`, flattened one behind the other; 0 elsewhere"""
    states: torch.Tensor
    """(R, P) int64 place of each of the encoder's states among its flattened rows; 0 elsewhere"""
    is_state: torch.Tensor
    """(R, P) bool"""
    before: torch.Tensor
    """(N,) int64 place among the student's flattened rows of the token before each of the response's"""
    teacher_before: torch.Tensor
    """(N,) int64 place of the same among the flattened `llm_ids`, where the response's token is the next"""
    owners: torch.Tensor
    """(N,) int64 sample of each token of the response"""
    within: torch.Tensor
    """(N,) int64 its number in that response"""

    def to(self, device: torch.device) -> Continuations:
        """On a device, on its way without waiting for what that has to do."""
        return replace(self, **{field.name: _sent(getattr(self, field.name), device) for field in fields(self)})


def num_response_tokens(batch: Batch) -> np.ndarray:
    """(B,) tokens of each sample's response; 0 where a row is not valid."""
    starts = batch.host.columns.get(RESPONSE_START, (0,) * len(batch))
    lengths = np.array(batch.host.num_tokens["llm"])
    return np.where(lengths > 0, lengths - np.array(starts), 0)


def places_before(batch: Batch) -> torch.Tensor:
    """(N,) int64 place among the flattened `llm_ids` of the token before each of the responses'; on the CPU."""
    starts, count = np.array(batch.host.columns.get(RESPONSE_START, (0,) * len(batch))), num_response_tokens(batch)
    first = np.arange(len(batch)) * batch.llm_ids.shape[1] + starts - 1
    return torch.from_numpy(np.repeat(first, count) + _within(count))


def continuations(batch: Batch, *, encoder: bool, prompt: bool) -> Continuations:
    """Of a batch whose student reads the encoder's states, then its prompt as the LLM reads it (either may be left out), then the
    response; on the CPU. A batch without any sample gives one row of one token, and no token to be told."""
    host, count = batch.host, num_response_tokens(batch)
    starts = np.array(host.columns.get(RESPONSE_START, (0,) * len(batch)))
    each = np.arange(len(batch))
    cells = each if batch.packed is None else np.array(host.cells)
    prompts = _prompt_width(batch)
    llm_first = len(batch) * prompts + each * batch.llm_ids.shape[1]
    pieces = []  # (whether states, lengths, first places)
    if encoder:
        lengths = np.maximum(1, host.num_tokens["encoder"])
        width = batch.encoder_ids.shape[1] if batch.packed is None else batch.packed.encoder.source.shape[1]
        pieces.append((True, lengths, first_places(lengths, cells, width)))
    if prompt:
        own = np.array(host.columns.get(STUDENT_PROMPT_IDS, (0,) * len(batch)))
        # Where there is no sample one token is read all the same: every rank runs the same layers.
        lengths = own if encoder else np.maximum(1, own)
        pieces.append((False, lengths, each * prompts))
    before = sum(lengths for _, lengths, _ in pieces)
    pieces.append((False, count, llm_first + starts))
    place, is_state = _ends_to_end(pieces)
    total = before + count
    rows = pack_rows(total, np.cumsum(total) - total, cells.tolist())
    source = place[rows.source]
    found = is_state[rows.source] & (rows.segment_ids >= 0)
    within = _within(count)
    own_first = first_places(total, cells, rows.source.shape[1]) + before - 1
    return Continuations(
        rows=rows,
        ids=source.masked_fill(found, 0),
        states=source.masked_fill(~found, 0),
        is_state=found,
        before=torch.from_numpy(np.repeat(own_first, count) + within),
        teacher_before=places_before(batch),
        owners=torch.from_numpy(np.repeat(each, count)),
        within=torch.from_numpy(within),
    )


def read_on(student: LLMReader | StackedModel, batch: Batch, plan: Continuations) -> torch.Tensor:
    """Final states of what the student reads, (R, P, D), with gradients; `plan` lies on the batch's device."""
    prompts = batch.extras.get(STUDENT_PROMPT_IDS)
    flat = [] if prompts is None else [prompts.flatten()]
    ids = torch.cat([*flat, batch.llm_ids.flatten()])[plan.ids]
    inputs: dict[str, Any] = {"input_ids": ids}
    if isinstance(student, StackedModel):
        heard = student.heard(batch).flatten(0, 1)[plan.states]
        embedded = student.trained_model.get_input_embeddings()(ids)
        inputs = {"inputs_embeds": torch.where(plan.is_state.unsqueeze(-1), heard, embedded.to(heard.dtype))}
    llm = student.trained_model
    if batch.packed is None:
        return read_padded(llm, plan.rows.mask, **inputs)
    return run_packed(base_of(llm), plan.rows, **inputs)


def first_places(lengths: np.ndarray, cells: Sequence[int] | np.ndarray, width: int) -> np.ndarray:
    """(B,) place of each sample's first token among flattened rows of `width`, a row a cell (B non-decreasing numbers)."""
    row = np.unique(np.asarray(cells), return_inverse=True)[1]
    before = np.cumsum(lengths) - lengths
    return row * width + before - before[np.searchsorted(row, row)]


def _within(count: np.ndarray) -> np.ndarray:
    """0, 1, ... of each sample's tokens, one sample behind the other."""
    return np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)


def _ends_to_end(pieces: Sequence[tuple[bool, np.ndarray, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples one behind the other, each its pieces in order: (T,) place of each token, and whether it is a state."""
    lengths = np.stack([length for _, length, _ in pieces], axis=1).ravel()
    firsts = np.stack([first for _, _, first in pieces], axis=1).ravel()
    kinds = np.tile([is_state for is_state, _, _ in pieces], len(lengths) // len(pieces))
    begins = np.cumsum(lengths) - lengths
    place = np.arange(lengths.sum()) + np.repeat(firsts - begins, lengths)
    return torch.from_numpy(place), torch.from_numpy(np.repeat(kinds, lengths))


def _prompt_width(batch: Batch) -> int:
    prompts = batch.extras.get(STUDENT_PROMPT_IDS)
    return 0 if prompts is None else prompts.shape[1]


def _sent(value: Any, device: torch.device) -> Any:
    if device.type != "cuda":
        return value.to(device)
    if isinstance(value, torch.Tensor):
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device, non_blocking=True)
