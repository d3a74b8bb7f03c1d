"""First step of LLM2Vec: a causal LLM learns to look both ways, by filling in masked tokens.

    loss = -log softmax(head(h[p - 1]))[x[p]], mean over masked positions p

A share of the tokens of each text (never the first) is replaced by a mask token; as the LLM was trained to, it says at position
p - 1 what stands at p. The head is the LLM's own, frozen; LoRA trains.

Source: BehnamGhader et al., "LLM2Vec", COLM 2024, arXiv 2404.05961. Every chosen token is masked (no 80/10/10).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from mtllm_ds.config.objectives import MaskedNextToken as MaskedNextTokenSettings
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.draws import seed_of
from mtllm_ds.models.build import dtype_of
from mtllm_ds.models.lm_head import load_lm_head
from mtllm_ds.models.readers import LLMReader
from mtllm_ds.objectives.base import Objective, ObjectiveOutput, Parts, Sums, plain, zeros


class MaskedNextToken(Objective):
    """Cross-entropy at masked positions, told from the position before."""

    def __init__(self, student: LLMReader, lm_head: nn.Linear, mask_id: int, mask_share: float) -> None:
        super().__init__()
        self.student = student
        self.lm_head = lm_head
        self.mask_id = mask_id
        self.mask_share = mask_share

    @classmethod
    def build(cls, parts: Parts) -> MaskedNextToken:
        settings, llm = parts.settings.objective, parts.settings.model.given_llm
        assert isinstance(settings, MaskedNextTokenSettings)
        assert isinstance(parts.student, LLMReader)
        spec = TokenizerSpec(
            name=llm.name, revision=llm.revision, side="llm", max_length=llm.max_length,
            trust_remote_code=llm.trust_remote_code,
        )  # fmt: skip
        mask_id = load_text_tokenizer(spec).id_of(settings.mask_token, "objective.mask_token")
        lm_head = load_lm_head(llm, parts.student, dtype_of(parts.settings))
        return cls(parts.student, lm_head, mask_id, settings.mask_share)

    def count(self, batch: Batch) -> int:
        """Number of masked positions: it follows from the lengths alone."""
        return int(self._num_masked(batch).sum())

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Summed cross-entropy of a micro-batch."""
        ids = batch.llm_ids
        masked = self._masked(batch)
        states = self.student.states(ids.masked_fill(masked, self.mask_id), batch.llm_mask)
        following = masked[:, 1:]
        logits = self.lm_head(states[:, :-1][following]).float()
        wanted = ids[:, 1:][following]
        loss = functional.cross_entropy(logits, wanted, reduction="sum")
        sums = {
            "count": following.double().sum(),
            "loss": loss.detach().double(),
            "right": (logits.argmax(-1) == wanted).double().sum(),
        }
        return ObjectiveOutput(loss, sums)

    def empty_sums(self) -> Sums:
        return zeros("count", "loss", "right")

    def summarize(self, sums: Mapping[str, torch.Tensor], languages: Sequence[str]) -> dict[str, float]:
        """`loss` (nats a masked token) and `masked_accuracy`."""
        count = max(1.0, plain(sums["count"]))
        return {"loss": plain(sums["loss"]) / count, "masked_accuracy": plain(sums["right"]) / count}

    def _num_masked(self, batch: Batch) -> torch.Tensor:
        """(B,) tokens to mask of each row, at least one of those with two tokens."""
        maskable = (batch.llm_mask.sum(1) - 1).clamp(min=0)
        wanted = (maskable * self.mask_share + 0.5).long().clamp(min=1)
        return torch.minimum(wanted, maskable) * batch.valid

    def _masked(self, batch: Batch) -> torch.Tensor:
        """(B, S) bool: which tokens are masked, drawn anew each step in training, the same each time in validation."""
        samples = [max(0, sample) for sample in batch.sample_ids.tolist()]
        seeds = [seed_of(self.step_seed, sample) for sample in samples] if self.training else samples
        # A generator a row: its first numbers are the same however many follow, so neither padding nor neighbours matter.
        rows = [torch.rand(batch.llm_ids.shape[1], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        noise = torch.stack(rows).to(batch.llm_ids.device)
        noise = noise.masked_fill(batch.llm_mask == 0, -1.0)
        noise[:, 0] = -1.0
        rank = noise.argsort(1, descending=True).argsort(1)
        return rank < self._num_masked(batch)[:, None]
