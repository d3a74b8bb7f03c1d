"""A contrastive term beside an error to fixed targets: each text finds its own target among those of the whole step.

    loss_i = -log( exp(cos(z_i - m, t_i - m) / T) / sum_j exp(cos(z_i - m, t_j - m) / T) )

z_i is the student's vector, t_j run over the teacher's vectors of the step's texts, on all forwards and ranks, and m is their mean:
pooled states of a language model share most of their direction, which tells no text from another. Targets of the same text (its
translations in other languages, or a repetition) do not stand against each other.

Since targets have no gradient, they alone must be known before a step's first forward, and a row's loss is its own: neither ranks
nor forwards change it, and no forward of the student runs twice. The other direction, where a target looks for its text, would
need both.

Source: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, arXiv 1807.03748. OmniSONAR (2026,
arXiv 2603.16606) puts such a term beside a teacher's vectors to take in languages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch.nn import functional

from mtllm_ds.cluster.agree import own_rank
from mtllm_ds.cluster.gather import rows_of_all_ranks
from mtllm_ds.data.stream.collate import Batch

_TARGETS, _ALL, _OWN, _RIVALS = "contrast_targets", "contrast_all", "contrast_own", "contrast_rivals"
"""What a prepared batch carries: (B, D) float32 own targets, zeros where a row is not valid; (N + 1, D) float32, the mean of the
step's targets and each target less it; (B,) int64, which of the N is a row's own; (B, N) bool, whom it stands against, itself"""


class Contrast(NamedTuple):
    """Of each row of a forward, (B,) float32, 0 where not valid."""

    loss: torch.Tensor
    found: torch.Tensor
    """1 where no other target is nearer than its own"""


def own_targets(batch: Batch) -> torch.Tensor | None:
    """(B, D) targets that a batch was prepared with; None where it was not."""
    return batch.extras.get(_TARGETS)


def against_step(batches: Sequence[Batch], targets: Sequence[torch.Tensor]) -> Sequence[Batch]:
    """A step's forwards, prepared: each row knows the targets of all ranks. Called by all ranks alike, with equally many forwards.

    Args:
        batches: on the host
        targets: (B, D) float32 of each forward, on the device
    """
    keys = [text_keys(batch).to(own.device) for batch, own in zip(batches, targets, strict=True)]
    ordered, starts = _in_order(batches, targets)
    ordered_keys, _ = _in_order(batches, keys)
    if not len(ordered):
        return batches
    # One that is not finite stands against nobody else, so that the losses of its own rank alone tell of it.
    sound = torch.isfinite(ordered).all(1)
    mean = torch.where(sound[:, None], ordered, 0.0).sum(0) / sound.sum().clamp(min=1)
    everything = torch.cat([mean[None], torch.where(sound[:, None], ordered - mean, 0.0)])
    places = torch.arange(len(ordered), device=ordered.device)
    prepared = []
    for batch, own, own_keys, start in zip(batches, targets, keys, starts, strict=True):
        valid = batch.valid.to(own.device)
        rows = torch.where(valid, start + torch.arange(len(batch), device=own.device), 0)
        rivals = sound & (ordered_keys != own_keys[:, None]) | (places == rows[:, None])
        more = {_TARGETS: torch.where(valid[:, None], own, 0.0), _ALL: everything, _OWN: rows, _RIVALS: rivals}
        prepared.append(replace(batch, extras={**batch.extras, **more}))
    return prepared


def contrast(student: torch.Tensor, batch: Batch, temperature: float) -> Contrast | None:
    """The rows of a forward against the step's targets; None where the batch was not prepared (validation).

    Args:
        student: (B, D) float32, with gradient
    """
    if _ALL not in batch.extras:
        return None
    everything, own = batch.extras[_ALL], batch.extras[_OWN]
    directions = functional.normalize(everything[1:], dim=-1)
    cosines = functional.normalize(student - everything[0], dim=-1) @ directions.T
    scores = (cosines / temperature).masked_fill(~batch.extras[_RIVALS], float("-inf"))
    loss = functional.cross_entropy(scores, own, reduction="none") * batch.valid
    return Contrast(loss, (scores.detach().argmax(-1) == own).to(loss.dtype) * batch.valid)


def text_keys(batch: Batch) -> torch.Tensor:
    """(B,) int64: equal for rows of which the LLM reads the same tokens, however they are padded, and else (nearly surely) not."""
    places = torch.arange(1, batch.llm_ids.shape[1] + 1, dtype=torch.int64)
    factors = _scrambled(places)
    return (_scrambled(batch.llm_ids.cpu() + 1) * factors * batch.llm_mask.cpu()).sum(1)


def _scrambled(values: torch.Tensor) -> torch.Tensor:
    """Odd int64 of int64, spread over all bits (arithmetic modulo 2^64)."""
    mixed = values * -7046029254386353131
    mixed = (mixed ^ (mixed >> 29)) * -4658895280553007687
    return (mixed ^ (mixed >> 32)) | 1


def _in_order(batches: Sequence[Batch], rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[int]]:
    """Valid rows of all ranks in the order of the cells, and where each of this rank's forwards begins among them."""
    own = [part[: batch.host.num_valid] for batch, part in zip(batches, rows, strict=True)]
    by_forward = rows_of_all_ranks(own)
    # Ranks take forwards in turn: by forward, then by rank, is the order of the cells, whoever has run them.
    parts = [part for of_ranks in by_forward for part in of_ranks]
    starts = torch.tensor([0, *(len(part) for part in parts)]).cumsum(0)[:-1]
    return torch.cat(parts), starts[own_rank() :: len(by_forward[0])].tolist()
