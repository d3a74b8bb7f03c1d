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

from mtllm_ds.config.objectives import MaskedNextToken as MaskedNextTokenSettings
from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.draws import seed_of
from mtllm_ds.errors import UserError
from mtllm_ds.models.build import dtype_of
from mtllm_ds.models.lm_head import OutputHead, load_output_head
from mtllm_ds.models.loading import load_config
from mtllm_ds.models.readers import LLMReader
from mtllm_ds.models.text_models import looks_both_ways
from mtllm_ds.objectives.base import Objective, ObjectiveOutput, Parts, Sums, plain, zeros
from mtllm_ds.objectives.cross_entropy import NO_LABEL, tell_rows
from mtllm_ds.objectives.token_kl_head import KnownGradient
from mtllm_ds.observe.flops import note_head
from mtllm_ds.step_parts import in_part


class ToldTokens(nn.Module):
    """What the frozen head makes of prepared states.

    Returns plain numbers, as `TokenKLHead` does and for its reason: backward then gathers no head.
    """

    def __init__(self, head: OutputHead, chunk_elements: int = 2**25) -> None:
        super().__init__()
        self.weight, self.bias = head.weight, head.bias
        self.softcap = head.softcap
        self.chunk_elements = chunk_elements

    def forward(
        self, states: torch.Tensor, wanted: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """(N, D) states and (N,) int64 tokens, -100 where there is none -> summed cross-entropy, number of tokens told right,
        gradient (N, D) of the sum (None where nothing needs it)."""
        needs_gradient = torch.is_grad_enabled() and states.requires_grad
        note_head(len(states), self.weight, 1 + needs_gradient)
        told = tell_rows(
            states, wanted, self.weight, self.bias, self.softcap, gradient=needs_gradient,
            chunk_elements=self.chunk_elements,
        )  # fmt: skip
        return told.losses.sum(), told.right.sum(), told.gradient


class MaskedNextToken(Objective):
    """Cross-entropy at masked positions, told from the position before."""

    def __init__(self, student: LLMReader, lm_head: OutputHead, mask_id: int, mask_share: float) -> None:
        super().__init__()
        self.student = student
        self.lm_head = lm_head
        self.told = ToldTokens(lm_head)
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
        require_causal(llm)
        lm_head = load_output_head(llm, parts.student, dtype_of(parts.settings))
        return cls(parts.student, lm_head, mask_id, settings.mask_share)

    def count(self, batch: Batch) -> int:
        """Number of masked positions: it follows from the lengths alone."""
        return sum(self._num_masked(batch))

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Summed cross-entropy of a micro-batch. K is the most masked tokens of a row."""
        ids = batch.llm_ids
        places_BK, there_BK = self.masked_places(batch)
        # Where a row has fewer, position 1 stands again: adding keeps what is masked masked.
        masked = torch.zeros_like(ids).scatter_add(1, places_BK, there_BK.long()).bool()
        states = self.student.states(ids.masked_fill(masked, self.mask_id), batch.llm_mask)
        rows = torch.arange(len(ids), device=ids.device)[:, None]
        before = self.lm_head.prepared(states[rows, places_BK - 1].flatten(0, 1))
        wanted = ids.gather(1, places_BK).masked_fill(~there_BK, NO_LABEL).flatten()
        with in_part("head"):
            loss, right, gradient = self.told(before, wanted)
        if gradient is not None:
            loss = KnownGradient.apply(before, loss, gradient)
        sums = {
            "count": there_BK.double().sum(),
            "loss": loss.detach().double(),
            "right": right.double(),
        }
        return ObjectiveOutput(loss, sums)

    def empty_sums(self) -> Sums:
        return zeros("count", "loss", "right")

    def summarize(self, sums: Mapping[str, torch.Tensor], languages: Sequence[str]) -> dict[str, float]:
        """`loss` (nats a masked token) and `masked_accuracy`."""
        count = max(1.0, plain(sums["count"]))
        return {"loss": plain(sums["loss"]) / count, "masked_accuracy": plain(sums["right"]) / count}

    def _num_masked(self, batch: Batch) -> list[int]:
        """(B,) tokens to mask of each row, at least one of those with two tokens."""
        maskable = [max(0, length - 1) for length in batch.host.num_tokens["llm"]]
        return [min(most, max(1, int(most * self.mask_share + 0.5))) for most in maskable]

    def masked_places(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, K) int64 masked positions in order, and (B, K) bool where there are so many; position 1 fills up.

        Drawn anew each step in training, the same each time in validation.
        """
        samples = [max(0, sample) for sample in batch.host.sample_ids]
        seeds = [seed_of(self.step_seed, sample) for sample in samples] if self.training else samples
        counts = self._num_masked(batch)
        filler = min(1, batch.llm_ids.shape[1] - 1)  # a forward without any sample is one padding token wide
        places = torch.full((len(counts), max(1, max(counts))), filler)
        there = torch.zeros_like(places, dtype=torch.bool)
        for row, (seed, count) in enumerate(zip(seeds, counts, strict=True)):
            # A generator a row: its first numbers are the same however many follow, so neither padding nor neighbours matter.
            noise = torch.rand(batch.host.num_tokens["llm"][row], generator=torch.Generator().manual_seed(seed))
            places[row, :count] = noise[1:].argsort(descending=True)[:count].sort().values + 1
            there[row, :count] = True
        return _to(places, batch.llm_ids.device), _to(there, batch.llm_ids.device)


def require_causal(llm: LLMSettings) -> None:
    """Refuse an encoder, which has nothing to learn here; an LLM that was adapted before may go on."""
    config = load_config(llm.name, llm.revision, llm.trust_remote_code, "model.llm.name")
    if getattr(config, "is_causal", True) is not False and looks_both_ways(llm, config):
        raise UserError(
            f"model.llm.name={llm.name}: a {config.model_type} encoder, which looks both ways already; use it as it is"
        )


def _to(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Made on the host, on its way to the device without waiting for what that has to do."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
