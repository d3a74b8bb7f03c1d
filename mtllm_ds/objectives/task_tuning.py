"""Cross-entropy on labels: how the teacher of stage 2 is made, and every baseline that is tuned directly.

    loss = -log softmax(head(z))[label], mean over rows;  z = mean over all tokens, or over a choice's tokens

Source: Schmidt et al., arXiv 2406.12739, section on task distillation, step (a).
"""

from __future__ import annotations

from torch.nn import functional

from mtllm_ds.config.objectives import TaskTuning as TaskTuningSettings
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.models.build import dtype_of
from mtllm_ds.models.heads import new_head
from mtllm_ds.objectives.base import ObjectiveOutput, Parts
from mtllm_ds.objectives.task import NO_LABEL, TaskObjective


class TaskTuning(TaskObjective):
    """Student and head learn a task from labels."""

    @classmethod
    def build(cls, parts: Parts) -> TaskTuning:
        assert parts.task is not None
        settings, student = parts.settings, parts.student
        assert isinstance(settings.objective, TaskTuningSettings)
        head = new_head(
            student.hidden_size,
            parts.task,
            seed=settings.run.seed,
            dtype=dtype_of(settings),
            bias=settings.objective.head_bias,
        )
        return cls(student, head, parts.task, parts.num_languages)

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Summed cross-entropy of a micro-batch; rows that are not valid weigh nothing."""
        labels = self.labels(batch)
        scores = self.scores(*self.vectors(batch))
        # A row that is not valid, in a forward without any sample, has no label: what it counts is nothing.
        row_loss = functional.cross_entropy(scores, labels, reduction="none", ignore_index=NO_LABEL) * batch.valid
        return ObjectiveOutput(row_loss.sum(), self.answer_sums(row_loss, scores, labels, batch))
