"""What a student itself writes in training: responses to a batch's prompts, each a pure function of the weights and its own seed.

Shapes: B samples, S tokens of the longest prompt (states of an encoder and tokens together).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
from torch import nn
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.data.columns import STUDENT_PROMPT_IDS
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.models.evaluating import Evaluating
from mtllm_ds.models.generation import causal_model, left_padded
from mtllm_ds.models.generation import end_ids as generation_ends
from mtllm_ds.models.lm_head import OutputHead
from mtllm_ds.models.readers import LLMReader, token_embeddings
from mtllm_ds.models.sampling import Sampler, Sampling
from mtllm_ds.models.stacked import StackedModel

Gather = Literal["whole", "layers"]


class StudentWriter:
    """Writes responses with the student as it stands, dropout off.

    Args:
        reads_prompt: the LLM reads `student_prompt_ids` (behind the encoder's states, in a stack)
        end_ids: tokens that end a response, beside those that the LLM ends texts with
        gather: under ZeRO-3, the LLM whole while it writes, or layer by layer for each token
    """

    def __init__(
        self,
        settings: LLMSettings,
        student: LLMReader | StackedModel,
        head: OutputHead,
        sampling: Sampling,
        *,
        reads_prompt: bool,
        end_ids: Collection[int],
        gather: Gather,
    ) -> None:
        self._student = student
        self._model = causal_model(settings, student, head)
        self._head = head
        self._evaluating = Evaluating(student)
        self._sampling = sampling
        self.reads_prompt = reads_prompt
        self._end_ids = generation_ends(self._model, end_ids)
        # `generate` takes what it is not told from here: penalties and bans for answers to users would bend what is drawn.
        self._model.generation_config = GenerationConfig()
        self._by_layers = gather == "layers"

    @property
    def whole(self) -> list[nn.Parameter]:
        """Weights that are to be whole while it writes. The head and the table of embeddings are, as every token needs both."""
        table = self._student.trained_model.get_input_embeddings()
        parts = [table] if self._by_layers else [self._student.trained_model]
        found = [p for part in (*parts, self._head) for p in part.parameters()]
        return list(dict.fromkeys(found))

    @torch.no_grad()
    def write(self, batch: Batch, seeds: Sequence[int], rooms: Sequence[int]) -> list[list[int]]:
        """The response to each sample of a batch on the device, with the token that ends it.

        Under ZeRO-3 all ranks call it alike; where layers are gathered they also write equally many tokens, those of the longest
        response of all ranks.

        Args:
            seeds: (B,) of what is drawn
            rooms: (B,) most tokens of each response; none is written for 0
        """
        rows = [row for row, room in enumerate(rooms) if room] or [0]
        device = batch.valid.device
        with self._evaluating():
            embeddings, mask = left_padded(*self._prompts(batch, rows))
            written = self._model.generate(
                inputs_embeds=embeddings,
                attention_mask=mask,
                generation_config=GenerationConfig(
                    max_new_tokens=max(1, *rooms),
                    do_sample=False,
                    use_cache=True,
                    eos_token_id=self._end_ids,
                    pad_token_id=self._end_ids[0],
                ),
                logits_processor=LogitsProcessorList(
                    [Sampler(self._sampling, torch.tensor([seeds[row] for row in rows], device=device))]
                ),
                stopping_criteria=StoppingCriteriaList(
                    [_Full(torch.tensor([rooms[row] for row in rows], device=device))]
                ),
                synced_gpus=self._by_layers and _is_partitioned(self._student),
            )
        found = dict(zip(rows, written.tolist(), strict=True))
        return [self._until_end(found[row][:room]) if room else [] for row, room in enumerate(rooms)]

    def _prompts(self, batch: Batch, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """What the student reads before the responses of some rows, padded: (b, S, D), (b, S)."""
        read, masks = [], []
        if isinstance(self._student, StackedModel):
            masks.append(batch.encoder_mask[rows])
            read.append(self._student.embeddings(batch.encoder_ids[rows], masks[0]))
        if self.reads_prompt:
            ids, mask = (side[rows] for side in _prompt_ids(batch))
            read.append(token_embeddings(self._student.trained_model, ids))
            masks.append(mask)
        return torch.cat([part.to(read[0].dtype) for part in read], 1), torch.cat(masks, 1)

    def _until_end(self, row: list[int]) -> list[int]:
        ends = (place + 1 for place, token in enumerate(row) if token in self._end_ids)
        return row[: next(ends, len(row))]


def _prompt_ids(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The student's prompts as the LLM reads them, and their mask; one padding token where there is no sample."""
    if STUDENT_PROMPT_IDS not in batch.extras:
        nothing = torch.zeros(len(batch), 1, dtype=torch.long, device=batch.valid.device)
        return nothing, nothing
    ids = batch.extras[STUDENT_PROMPT_IDS]
    lengths = torch.tensor(batch.host.columns[STUDENT_PROMPT_IDS], device=ids.device)
    return ids, (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()


def _is_partitioned(student: nn.Module) -> bool:
    return any(hasattr(parameter, "ds_id") for parameter in student.parameters())


class _Full(StoppingCriteria):
    """Ends each row where its room does."""

    def __init__(self, rooms: torch.Tensor) -> None:
        self._rooms = rooms

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return self._rooms <= input_ids.shape[1]
