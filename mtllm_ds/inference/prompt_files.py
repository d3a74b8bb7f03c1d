"""Responses to a file of prompts, kept batch by batch: any number of ranks, and a killed one continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mtllm_ds.cluster.agree import together
from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.data.text.prompt_records import PromptRecord
from mtllm_ds.data.text.prompts import said
from mtllm_ds.draws import seed_of
from mtllm_ds.models.speaker import Speaker
from mtllm_ds.models.writer import ReadPrompt
from mtllm_ds.transfer_sets.sdrrl.stages import Progress, Row, Stage, write_batches


class _Job(NamedTuple):
    id: str
    record: PromptRecord
    read: ReadPrompt
    seed: int


class PromptFile:
    """Prompts as a speaker reads them, and how it answers; every mistake in either is told here, before anything is written.

    What is written is what `MTLLM.generate` writes of the same list and seed, but for logits that tie within rounding.

    Attributes:
        how: what they are answered with
    """

    def __init__(
        self,
        speaker: Speaker,
        records: Sequence[PromptRecord],
        *,
        seed: int,
        max_new_tokens: int | None = None,
        is_chat: bool = False,
        template: str | None = None,
        options: Mapping[str, Any],
    ) -> None:
        """
        Args:
            is_chat: texts are what a user says
            template: Jinja, in place of the one that the model learnt by, or its tokenizer's own
            options: of transformers' `generate`

        Raises:
            UserError: a prompt, a language or an option does not fit.
        """
        prompts = [said(record.prompt) if is_chat else record.prompt for record in records]
        languages, places = [record.language for record in records], [record.place for record in records]
        rows = speaker.read(prompts, languages, template, places)
        self.how = speaker.options(rows, max_new_tokens, template, **options)
        self._speaker = speaker
        self._jobs = [
            _Job(record.id, record, read, seed_of(seed, number))
            for number, (record, read) in enumerate(zip(records, rows, strict=True))
        ]

    def write(self, stage: Stage, cluster: Cluster, *, batch_size: int, progress: Progress) -> None:
        """Rows {id, language, prompt, response, ended} of a stage, in the order of the prompts, by all ranks together; `ended`
        says that the response came to an end by itself."""
        lengths = [len(job.read) for job in self._jobs]
        found = write_batches(
            self._jobs, lengths, self._batch, stage, cluster, batch_size=batch_size, progress=progress
        )

        def finish() -> None:
            rows = [found[job.id] for job in self._jobs]
            stage.finish(rows, {"written": len(rows), "ended": sum(row["ended"] for row in rows)})

        together(lambda: finish() if cluster.is_main else None, cluster.device)

    def _batch(self, jobs: Sequence[_Job]) -> list[Row]:
        written = self._speaker.write([job.read for job in jobs], [job.seed for job in jobs], self.how, len(jobs))
        return [
            {
                "id": job.id, "language": job.record.language, "prompt": job.record.prompt, "response": one.text,
                "ended": not one.is_cut,
            }
            for job, one in zip(jobs, written, strict=True)
        ]  # fmt: skip
