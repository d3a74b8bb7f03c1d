"""Second step of LLM2Vec: unsupervised SimCSE makes the pooled states (`model.pooling`, the mean) a good vector of a text.

    loss_i = -log( exp(cos(u_i, v_i) / t) / sum_j exp(cos(u_i, v_j) / t) ),  mean over rows

u and v are the pooled vectors of the same text under two draws of dropout; j runs over the texts of row i's cell, or of the whole
step. Both are fixed by the recipe (`data.samples_per_cell`, `data.lanes`), so that neither ranks nor `data.cells_per_forward`
change the loss. How dropout falls does follow `data.cells_per_forward`: it is drawn once a forward.

The texts of a step need not fit into one forward: a first pass over its forwards, without gradient, gives all vectors and with
them the gradient of the loss by each; the second pass, dropout drawn alike, takes these gradients to the weights (Gao et al.,
"Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021, arXiv 2101.06983).

Source: Gao et al., "SimCSE", EMNLP 2021, arXiv 2104.08821; as LLM2Vec uses it, arXiv 2404.05961.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch.nn import functional

from mtllm_ds.cluster.agree import own_rank
from mtllm_ds.cluster.gather import rows_of_all_ranks
from mtllm_ds.config.objectives import SimCSE as SimCSESettings
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.errors import UserError
from mtllm_ds.models.base_dropout import set_attention_dropout
from mtllm_ds.models.probe import probe
from mtllm_ds.models.readers import Reader, base_of
from mtllm_ds.objectives.base import Objective, ObjectiveOutput, Parts, StepWeights, Sums, plain, zeros
from mtllm_ds.objectives.token_kl_head import KnownGradient

_ROW_LOSS, _GRADIENT = "simcse_row_loss", "simcse_gradient"
"""What `prepare` adds to a batch: (B,) and (B, 2, D) float32, zeros where a row is not valid"""


class SimCSE(Objective):
    """Each text finds itself among the texts of its cell, or of the step. N is their number, D the width of a vector.

    `num_together` texts of a cell stand against each other; a cell of validation is longer, and is taken in parts.
    """

    def __init__(
        self, student: Reader, num_together: int, temperature: float, attention_dropout: float, whole_step: bool = False
    ) -> None:
        super().__init__()
        self.student = student
        self.num_together = num_together
        self.temperature = temperature
        self.whole_step = whole_step
        _turn_on_dropout(student, attention_dropout)

    @classmethod
    def build(cls, parts: Parts) -> SimCSE:
        data, settings = parts.settings.data, parts.settings.objective
        assert isinstance(settings, SimCSESettings)
        whole_step = settings.negatives == "step"
        num_together = data.num_samples_per_cell * (data.lanes if whole_step else 1)
        return cls(parts.student, num_together, settings.temperature, settings.attention_dropout, whole_step)

    def count(self, batch: Batch) -> int:
        """Number of valid rows."""
        return batch.host.num_valid

    def prepare(self, batches: Sequence[Batch], step: StepWeights) -> Sequence[Batch]:
        """With negatives from the whole step: each row's loss against all texts of all ranks, and its gradient."""
        if not self.whole_step:
            return batches
        own = [
            _vectors_of(step.preview(index, batch))[: batch.host.num_valid].requires_grad_()
            for index, batch in enumerate(batches)
        ]
        by_forward = rows_of_all_ranks(own)
        # Ranks take forwards in turn: by forward, then by rank, is the order of the cells, whoever has run them.
        ordered = [rows for of_ranks in by_forward for rows in of_ranks]
        pairs = torch.cat(ordered)
        # One that is not finite stands against nobody else, so that the losses of its own rank alone tell of it.
        rivals = torch.isfinite(pairs).flatten(1).all(1)[None, :] | torch.eye(
            len(pairs), dtype=torch.bool, device=pairs.device
        )
        losses = self._row_losses(pairs, rivals)
        gradients = torch.autograd.grad(losses.sum(), own)
        own_losses = losses.detach().split([len(rows) for rows in ordered])[own_rank() :: len(by_forward[0])]
        return [
            replace(batch, extras={**batch.extras, _ROW_LOSS: _padded(loss, batch), _GRADIENT: _padded(slope, batch)})
            for batch, loss, slope in zip(batches, own_losses, gradients, strict=True)
        ]

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Summed row losses of a micro-batch; rows that are not valid weigh nothing and stand against nobody."""
        pairs = torch.stack([self.student.vectors(batch) for _ in range(2)], dim=1)
        if _ROW_LOSS in batch.extras:
            row_loss = batch.extras[_ROW_LOSS]
            loss = KnownGradient.apply(pairs, row_loss.sum(), batch.extras[_GRADIENT])
        else:
            row_loss = self._row_losses(pairs, self._rivals(batch)) * batch.valid
            loss = row_loss.sum()
        one, other = functional.normalize(pairs.detach(), dim=-1).unbind(1)
        similarity = (one * other).sum(-1) * batch.valid
        sums = {
            "count": batch.valid.double().sum(),
            "loss": row_loss.detach().double().sum(),
            "similarity": similarity.double().sum(),
        }
        return ObjectiveOutput(loss, sums, pairs.detach())

    def _row_losses(self, pairs: torch.Tensor, rivals: torch.Tensor) -> torch.Tensor:
        """(N, 2, D) float32 pairs of vectors, (N, N) bool whom each stands against -> (N,)."""
        one, other = functional.normalize(pairs, dim=-1).unbind(1)
        scores = (one @ other.T / self.temperature).masked_fill(~rivals, float("-inf"))
        return functional.cross_entropy(scores, torch.arange(len(pairs), device=pairs.device), reduction="none")

    def _rivals(self, batch: Batch) -> torch.Tensor:
        """(B, B) bool: whom each row of a forward stands against, itself among them. A cell can be short."""
        rows = torch.arange(len(batch), device=batch.cells.device)
        part = (rows - torch.searchsorted(batch.cells, batch.cells)) // self.num_together
        together = (batch.cells[:, None] == batch.cells[None, :]) & (part[:, None] == part[None, :])
        return (together & batch.valid[None, :]) | (rows[:, None] == rows[None, :])

    def empty_sums(self) -> Sums:
        return zeros("count", "loss", "similarity")

    def summarize(self, sums: Mapping[str, torch.Tensor], languages: Sequence[str]) -> dict[str, float]:
        """`loss`, and `self_similarity`, the mean cosine of a text's two vectors."""
        count = max(1.0, plain(sums["count"]))
        return {"loss": plain(sums["loss"]) / count, "self_similarity": plain(sums["similarity"]) / count}


def _vectors_of(output: ObjectiveOutput) -> torch.Tensor:
    assert output.vectors is not None
    return output.vectors


def _padded(rows: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The valid rows of a batch (which come first), zeros for the others."""
    return torch.cat([rows, rows.new_zeros(len(batch) - len(rows), *rows.shape[1:])])


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
