"""Cross-entropy on labels: how the teacher of stage 2 is made, and every baseline that is tuned directly.

    loss = -log softmax(head(z))[label], mean over rows;  z = mean over all tokens, or over a choice's tokens

Source: Schmidt et al., arXiv 2406.12739, section on task distillation, step (a).
"""

from __future__ import annotations

from torch.nn import functional

from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.objectives.base import ObjectiveOutput
from mtllm_ds.objectives.task import TaskObjective


class TaskTuning(TaskObjective):
    """Reader and head learn a task from labels."""

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Summed cross-entropy of a micro-batch; rows that are not valid weigh nothing."""
        labels = self.labels(batch)
        assert labels is not None, "unlabelled shards"
        scores = self.scores(*self.vectors(batch))
        row_loss = functional.cross_entropy(scores, labels, reduction="none") * batch.valid
        return ObjectiveOutput(row_loss.sum(), self.answer_sums(row_loss, scores, labels, batch))
