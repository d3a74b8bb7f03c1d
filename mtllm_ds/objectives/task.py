"""What the task objectives share: a reader, a head, answers, and the figures that follow from answers and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mtllm_ds.data.shards.manifest import TaskEntry
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.models.heads import TaskHead, task_scores
from mtllm_ds.models.readers import Reader
from mtllm_ds.objectives.base import Objective, Sums, per_language, plain


class TaskObjective(Objective):
    """A reader and a head on a labelled task. K is the number of labels, C that of a batch's choices."""

    def __init__(self, reader: Reader, head: TaskHead, task: TaskEntry, num_languages: int) -> None:
        super().__init__()
        self.reader = reader
        self.head = head
        self.task = task
        self.side = reader.side
        self.num_languages = num_languages

    def count(self, batch: Batch) -> int:
        """Number of valid rows."""
        return int(batch.valid.sum())

    def vectors(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, D) vectors and None; for multiple choice (B, C, D) vectors and (B, C) bool, which choices there are."""
        if self.task.type != "multiple_choice":
            return self.reader.vectors(batch), None
        spans = self._spans(batch)
        return self.reader.choice_vectors(batch, spans), spans[..., 1] > spans[..., 0]

    def scores(self, vectors: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
        """(B, K) or (B, C) float32 scores of the head."""
        return task_scores(self.head, vectors, present)

    def labels(self, batch: Batch) -> torch.Tensor | None:
        """(B,) int64 right answers, or None where the shards carry none."""
        # A forward of no sample at all has no further columns, yet must make the same calls as the others.
        if "label" not in batch.extras and batch.valid.any():
            return None
        return batch.extras.get("label", torch.zeros_like(batch.languages))

    def answer_sums(
        self, row_loss: torch.Tensor, scores: torch.Tensor | None, labels: torch.Tensor | None, batch: Batch
    ) -> Sums:
        """Sums for the log from (B,) weighted losses and, where there are labels, from scores."""
        valid = batch.valid.double()
        row_loss = row_loss.detach().double()
        sums = {
            "count": valid.sum(),
            "loss": row_loss.sum(),
            "language_loss": per_language(row_loss, batch.languages, self.num_languages),
            "language_count": per_language(valid, batch.languages, self.num_languages),
        }
        if labels is None or scores is None:
            return sums
        answers = scores.detach().argmax(-1)
        hits = (answers == labels).double() * valid
        num_labels = len(self.task.labels)
        return sums | {
            "label_hits": _by_class(hits, labels, num_labels),
            "label_count": _by_class(valid, labels, num_labels),
            "answer_count": _by_class(valid, answers, num_labels),
        }

    def summarize(self, sums: Mapping[str, torch.Tensor], languages: Sequence[str]) -> dict[str, float]:
        """`loss`; with labels `accuracy` and `macro_f1` (over the classes that occur); `loss/<language>` for several."""
        count = plain(sums["count"])
        if count == 0:
            return {"loss": 0.0}
        figures = {"loss": plain(sums["loss"]) / count}
        if "label_hits" in sums:
            hits, wanted, given = sums["label_hits"], sums["label_count"], sums["answer_count"]
            occurs = wanted > 0
            figures["accuracy"] = plain(hits.sum()) / count
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
        assert not batch.valid.any(), f"no column {column}"
        return batch.languages.new_zeros(len(batch), 1, 2)


def _by_class(values: torch.Tensor, classes: torch.Tensor, num_classes: int) -> torch.Tensor:
    return torch.zeros(num_classes, dtype=values.dtype, device=values.device).index_add_(0, classes, values)
