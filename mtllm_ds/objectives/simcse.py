"""Second step of LLM2Vec: unsupervised SimCSE makes the mean of the states a good vector of a text.

    loss_i = -log( exp(cos(u_i, v_i) / t) / sum_j exp(cos(u_i, v_j) / t) ),  mean over rows

u and v are the pooled vectors of the same text under two draws of dropout; j runs over the texts of row i's cell, which the recipe
fixes (`data.samples_per_cell`), so that neither ranks nor `data.cells_per_forward` change it. How dropout falls does follow
`data.cells_per_forward`: it is drawn once a forward.

Source: Gao et al., "SimCSE", EMNLP 2021, arXiv 2104.08821; as LLM2Vec uses it, arXiv 2404.05961.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

from mtllm_ds.config.objectives import SimCSE as SimCSESettings
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.errors import UserError
from mtllm_ds.models.base_dropout import set_attention_dropout
from mtllm_ds.models.probe import probe
from mtllm_ds.models.readers import Reader, base_of
from mtllm_ds.objectives.base import Objective, ObjectiveOutput, Parts, Sums, plain, zeros


class SimCSE(Objective):
    """Each text finds itself among the texts of its cell."""

    def __init__(self, student: Reader, samples_per_cell: int, temperature: float, attention_dropout: float) -> None:
        super().__init__()
        self.student = student
        self.samples_per_cell = samples_per_cell
        self.temperature = temperature
        _turn_on_dropout(student, attention_dropout)

    @classmethod
    def build(cls, parts: Parts) -> SimCSE:
        samples_per_cell, settings = parts.settings.data.samples_per_cell, parts.settings.objective
        assert isinstance(settings, SimCSESettings)
        assert samples_per_cell is not None
        return cls(parts.student, samples_per_cell, settings.temperature, settings.attention_dropout)

    def count(self, batch: Batch) -> int:
        """Number of valid rows."""
        return batch.host.num_valid

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Summed row losses of a micro-batch; rows that are not valid weigh nothing and stand against nobody."""
        one, other = (functional.normalize(self.student.vectors(batch), dim=-1) for _ in range(2))
        rivals = self._rivals(batch)
        scores = (one @ other.T / self.temperature).masked_fill(~rivals, float("-inf"))
        row_loss = functional.cross_entropy(scores, torch.arange(len(batch), device=one.device), reduction="none")
        row_loss = row_loss * batch.valid
        similarity = (one * other).sum(-1).detach() * batch.valid
        sums = {
            "count": batch.valid.double().sum(),
            "loss": row_loss.detach().double().sum(),
            "similarity": similarity.double().sum(),
        }
        return ObjectiveOutput(row_loss.sum(), sums)

    def _rivals(self, batch: Batch) -> torch.Tensor:
        """(B, B) bool: whom each row stands against, itself among them. A cell can be short; one of validation is long, and is
        taken in parts of the size that training has."""
        rows = torch.arange(len(batch), device=batch.cells.device)
        part = (rows - torch.searchsorted(batch.cells, batch.cells)) // self.samples_per_cell
        together = (batch.cells[:, None] == batch.cells[None, :]) & (part[:, None] == part[None, :])
        return (together & batch.valid[None, :]) | (rows[:, None] == rows[None, :])

    def empty_sums(self) -> Sums:
        return zeros("count", "loss", "similarity")

    def summarize(self, sums: Mapping[str, torch.Tensor], languages: Sequence[str]) -> dict[str, float]:
        """`loss`, and `self_similarity`, the mean cosine of a text's two vectors."""
        count = max(1.0, plain(sums["count"]))
        return {"loss": plain(sums["loss"]) / count, "self_similarity": plain(sums["similarity"]) / count}


def _turn_on_dropout(reader: Reader, probability: float) -> None:
    """Dropout of the attention weights in training; `UserError` where it would have no effect."""
    model = base_of(reader.trained_model)
    places = set_attention_dropout(model, probability)
    if not probability:
        return
    where = f"objective.attention_dropout={probability}:"
    if model.config._attn_implementation == "flash_attention_4":
        raise UserError(f"{where} flash attention 4 has no dropout; set model.attention=sdpa or flash_attention_2")
    probed = probe(type(model), model.config, getattr(model.config, "is_causal", True) is False)
    if not places or not (probed.drops_attention or probed.failure):
        raise UserError(
            f"{where} this {model.config.model_type} model has no dropout in its attention; set it to 0, "
            "model.trainable=lora and model.lora.dropout higher"
        )
