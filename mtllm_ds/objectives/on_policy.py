"""The student's own words in place of the data's responses: before a step, for all of its forwards at once.

A sample's response depends on the weights, the run's seed, the step and the sample alone: a run that resumes writes what it would
have written, on any number of ranks.

Sources: GKD (Agarwal et al., ICLR 2024, arXiv 2306.13649), whose share of own responses is `share` here, drawn by sample.
"""

from __future__ import annotations

from collections.abc import Sequence

from mtllm_ds.config.token_distillation import Rollouts
from mtllm_ds.data.columns import RESPONSE_START, STUDENT_PROMPT_IDS
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.data.stream.responses import with_responses
from mtllm_ds.draws import seed_of
from mtllm_ds.models.rollouts import StudentWriter
from mtllm_ds.objectives.base import StepWeights

_CHOICE, _TOKENS = 0, 1
"""What is drawn for a sample of a step."""


class OnPolicy:
    """Rewrites the responses of a step's batches.

    Args:
        max_length: most tokens of a prompt that the LLM reads and the response together, for teacher and student
    """

    def __init__(self, settings: Rollouts, writer: StudentWriter, max_length: int) -> None:
        self._settings = settings
        self._writer = writer
        self._max_length = max_length

    def rewritten(self, batches: Sequence[Batch], step: StepWeights, step_seed: int) -> list[Batch]:
        """The batches of a step (on the host) with what the student writes to their prompts; called by all ranks alike."""
        with step.outside_forward(self._writer.whole):
            return [self._rewritten(batch, step, step_seed) for batch in batches]

    def _rewritten(self, batch: Batch, step: StepWeights, step_seed: int) -> Batch:
        samples = batch.host.sample_ids
        rooms = [self._room(batch, row) if self._is_own(step_seed, sample) else 0 for row, sample in enumerate(samples)]
        seeds = [seed_of(step_seed, max(0, sample), _TOKENS) for sample in samples]
        responses = self._writer.write(batch.to(step.device), seeds, rooms)
        return with_responses(batch, [found if room else None for found, room in zip(responses, rooms, strict=True)])

    def _is_own(self, step_seed: int, sample: int) -> bool:
        """Whether the student writes this sample's response; never that of a row that is not valid."""
        return sample >= 0 and seed_of(step_seed, sample, _CHOICE) < self._settings.share * 2**63

    def _room(self, batch: Batch, row: int) -> int:
        known = batch.host.columns
        read = [RESPONSE_START, *([STUDENT_PROMPT_IDS] if self._writer.reads_prompt else [])]
        return max(1, min(self._settings.max_new_tokens, self._max_length - max(known[name][row] for name in read)))
