"""An objective's figures over a held-out set, each sample once over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from mtllm_ds.cluster.agree import any_says, each_together
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.objectives.base import Objective, ObjectiveOutput, add_sums, over_ranks


@torch.no_grad()
def evaluate_objective(
    objective: Objective,
    forward: Callable[[Batch], ObjectiveOutput],
    batches: Iterable[Batch],
    device: torch.device,
    languages: Sequence[str],
    asked_to_stop: Callable[[], bool],
) -> dict[str, float] | None:
    """Figures of `objective.summarize` over `batches`, dropout off; all ranks bring equally many batches,
    and stop together where one cannot read its next. None where some rank was asked to stop on the way.

    `forward` is the engine's: under ZeRO-3 the objective alone would see empty weights.
    """
    was_training = objective.training
    objective.eval()
    try:
        sums = objective.empty_sums()
        for batch in each_together(batches, device):
            if any_says(asked_to_stop(), device):
                return None
            objective.count(batch)  # what it must know of the batch, while that is on the host
            sums = add_sums(sums, forward(batch.to(device)).sums)
    finally:
        objective.train(was_training)
    return objective.summarize(over_ranks(sums, device), languages)
