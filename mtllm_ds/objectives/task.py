"""What the task objectives share: a student, a head, answers, and the figures that follow from answers and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mtllm_ds.data.columns import LABEL
from mtllm_ds.data.shards.manifest import TaskEntry
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.models.heads import TaskHead, task_scores
from mtllm_ds.models.readers import Reader
from mtllm_ds.objectives.base import Objective, Sums, per_language, plain, zeros

NO_LABEL = -100
"""Stands where a row has no label, as the field's losses expect."""


class TaskObjective(Objective):
    """A student and a head on a labelled task. K is the number of labels, C that of a batch's choices."""

    def __init__(self, student: Reader, head: TaskHead, task: TaskEntry, num_languages: int) -> None:
        super().__init__()
        self.student = student
        self.head = head
        self.task = task
        self.num_languages = num_languages

    def count(self, batch: Batch) -> int:
        """Number of valid rows."""
        return batch.host.num_valid

    def vectors(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, D) vectors and None; for multiple choice (B, C, D) vectors and (B, C) bool, which choices there are."""
        if self.task.type != "multiple_choice":
            return self.student.vectors(batch), None
        spans = self._spans(batch)
        return self.student.choice_vectors(batch, spans), spans[..., 1] > spans[..., 0]

    def scores(self, vectors: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
        """(B, K) or (B, C) float32 scores of the head."""
        return task_scores(self.head, vectors, present)

    def labels(self, batch: Batch) -> torch.Tensor:
        """(B,) int64 right answers; -100 where the shards carry none."""
        return batch.extras.get(LABEL, torch.full_like(batch.languages, NO_LABEL))

    def empty_sums(self) -> Sums:
        of_language, of_label = (self.num_languages,), (len(self.task.labels),)
        return zeros(
            "count", "loss", language_loss=of_language, language_count=of_language,
            label_hits=of_label, label_count=of_label, answer_count=of_label,
        )  # fmt: skip

    def answer_sums(self, row_loss: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, batch: Batch) -> Sums:
        """Sums for the log from (B,) weighted losses, scores, and labels where there are any."""
        valid = batch.valid.double()
        row_loss = row_loss.detach().double()
        answers = scores.detach().argmax(-1)
        labelled = valid * (labels != NO_LABEL)
        hits = (answers == labels).double() * labelled
        known, num_labels = labels.clamp(min=0), len(self.task.labels)
        return {
            "count": valid.sum(),
            "loss": row_loss.sum(),
            "language_loss": per_language(row_loss, batch.languages, self.num_languages),
            "language_count": per_language(valid, batch.languages, self.num_languages),
            "label_hits": _by_class(hits, known, num_labels),
            "label_count": _by_class(labelled, known, num_labels),
            "answer_count": _by_class(labelled, answers, num_labels),
        }

    def summarize(self, sums: Mapping[str, torch.Tensor], languages: Sequence[str]) -> dict[str, float]:
        """`loss`; with labels `accuracy` and `macro_f1` (over the classes that occur); `loss/<language>` for several."""
        count = plain(sums["count"])
        if count == 0:
            return {"loss": 0.0}
        figures = {"loss": plain(sums["loss"]) / count}
        hits, wanted, given = sums["label_hits"], sums["label_count"], sums["answer_count"]
        if num_labelled := plain(wanted.sum()):
            occurs = wanted > 0
            figures["accuracy"] = plain(hits.sum()) / num_labelled
            figures["macro_f1"] = plain((2 * hits[occurs] / (wanted[occurs] + given[occurs])).mean())
        for index, name in enumerate(languages):
            seen = plain(sums["language_count"][index])
            if seen and len(languages) > 1:
                figures[f"loss/{name}"] = plain(sums["language_loss"][index]) / seen
        return figures

    def _spans(self, batch: Batch) -> torch.Tensor:
        """(B, C, 2) int64 token positions of the choices on the reader's side."""
        column = f"{self.side}_choice_spans"
        if column in batch.extras:
            return batch.extras[column]
        assert not batch.host.num_valid, f"no column {column}"
        return batch.languages.new_zeros(len(batch), 1, 2)


def _by_class(values: torch.Tensor, classes: torch.Tensor, num_classes: int) -> torch.Tensor:
    return torch.zeros(num_classes, dtype=values.dtype, device=values.device).index_add_(0, classes, values)
